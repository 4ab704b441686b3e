"""What the tests of an application need: real servers, a database for each test, and attempts at all queued jobs.

    # conftest.py
    import pytest
    from shop.application import app

    pytest_plugins = ["tidepool.testing"]

    @pytest.fixture(scope="session")
    def tidepool_app():
        return app

    # test_charge.py
    from shop.application import app, charge
    from tidepool import Applied
    from tidepool.testing import drain

    async def test_a_charge(tidepool_urls):
        async with app:
            await charge.enqueue(17, 990)
        (job,) = await drain(app)
        assert job.outcome == Applied(1)

    async def test_the_function_itself(tidepool_transaction):
        assert 1 == await charge(tidepool_transaction, 17, 990)

The fixtures need pytest, pytest-asyncio or anyio for the last one, and the extra `embedded`:

- `tidepool_app`          the application; each test suite defines this fixture, with the scope `session`
- `tidepool_servers`      the URLs of a PostgreSQL and a Redis that run for the session
- `tidepool_urls`         the URLs of a migrated database and an empty Redis for one test. The environment names them
- `tidepool_transaction`  an open `tidepool.Transaction` in that database, which is rolled back at the end of the test

PYTEST_DONT_REWRITE: it has no assertions, and pytest would warn if a test had imported it before the plugin is loaded.
"""

from tidepool.testing.draining import DrainedJob, drain, queued

__all__ = ["DrainedJob", "drain", "queued"]

pytest_plugins = ["tidepool.testing.fixtures"]
