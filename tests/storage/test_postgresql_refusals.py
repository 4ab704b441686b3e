"""What PostgreSQL says at a start: a lasting fault ends it at once, one that can pass is waited for."""

import pytest
from fake_servers import listening, postgres_that_says

from tidepool.pool.config import PoolConfig
from tidepool.pool.faults import DatabaseFault, Refused, Unavailable
from tidepool.pool.pool import Pool


@pytest.mark.parametrize(
    ("state", "message", "fault"),
    [
        ("08P01", "unsupported startup parameter: statement_timeout=9000", Refused),
        ("08P01", "something that nobody has seen yet", Refused),
        ("08P01", "server login has been failing, try again later (server_login_retry)", Unavailable),
        ("08P01", "query_wait_timeout", Unavailable),
        ("08P01", "no more connections allowed (max_client_conn)", Unavailable),
        ("08006", "the connection failed", Unavailable),
        ("53300", "sorry, too many clients already", Unavailable),
        ("57P03", "the database system is starting up", Unavailable),
        ("57P01", "terminating connection due to administrator command", Unavailable),
        ("28P01", 'password authentication failed for user "ada"', Refused),
        ("28000", "no pg_hba.conf entry for host", Refused),
        ("3D000", 'database "shop" does not exist', Refused),
        ("42704", 'unrecognized configuration parameter "junk"', Refused),
        ("22023", "invalid value for parameter", Refused),
        ("55000", 'database "shop" is not currently accepting connections', Refused),
        ("XX000", "Tenant or user not found", Refused),
        ("42501", "permission denied", Refused),
        ("26000", "prepared statement does not exist", Refused),
        ("42P05", 'prepared statement "__asyncpg_stmt_1__" already exists', Refused),
        ("99999", "an error of a class that nobody knows", Refused),
    ],
)
async def test_the_servers_words_reach_the_person_whatever_their_state(
    state: str, message: str, fault: type[Exception]
) -> None:
    """Beside the pool and in it; and only what is known to pass is waited for."""
    async with listening(postgres_that_says(state, message)) as port:
        config = PoolConfig(url=f"postgresql://u:hunter2@127.0.0.1:{port}/d?sslmode=disable", application_name="t")
        for attempt in (config.connect("test"), Pool.open(config)):
            with pytest.raises(fault) as met:
                await attempt
            assert message in str(met.value)
            assert "hunter2" not in str(met.value)


@pytest.mark.parametrize(
    ("variable", "value"),
    [("PGPORT", "abc"), ("PGSSLMODE", "bogus"), ("PGTARGETSESSIONATTRS", "any-old"), ("PGSSLROOTCERT", __file__)],
)
async def test_an_environment_that_the_driver_cannot_use_is_a_refusal(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    """It reads libpq's variables by itself."""
    monkeypatch.setenv("PGSSLMODE", "verify-full")
    monkeypatch.setenv(variable, value)
    with pytest.raises(Refused):
        await PoolConfig(url="postgresql://u@127.0.0.1/d", application_name="t").connect("test")


def test_a_file_that_cannot_be_read_here_is_no_server_that_is_away() -> None:
    """An error of a file has its name; one of a socket has none."""
    assert isinstance(DatabaseFault.of(FileNotFoundError(2, "No such file", "/no/key.log")), Refused)
    assert isinstance(DatabaseFault.of(NotADirectoryError(20, "Not a directory")), Refused)
    assert isinstance(DatabaseFault.of(FileNotFoundError(2, "No such file")), Unavailable)
