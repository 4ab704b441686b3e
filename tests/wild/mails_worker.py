"""Runs a worker of the mails, as the application's own command does: `python -m tests.wild.mails_worker`."""

import os

from arq import run_worker
from arq.connections import RedisSettings

from tests.wild import mails


def work() -> None:
    """Run a worker until a signal stops it; its context comes from the environment."""
    run_worker(
        mails.worker_settings,
        redis_settings=RedisSettings.from_dsn(os.environ["REDIS_URL"]),
        ctx={"database_url": os.environ["DATABASE_URL"], "provider_url": os.environ["PROVIDER_URL"]},
    )


if __name__ == "__main__":
    work()
