"""A PostgreSQL and a Redis of one test's own, for tests that stop them or fill them, and a standby of the session's."""

import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
from arq.connections import ArqRedis
from commands import Service

from tidepool import embedded
from tidepool.embedded.locks import wait_until
from tidepool.embedded.place import Account
from tidepool.embedded.postgres import Postgres


@dataclass
class OwnServers:
    """A PostgreSQL and a Redis of the test's own, which it may stop, and the commands on them."""

    home: Path
    urls: embedded.Urls
    service: Service
    redis: ArqRedis

    async def fetch(self, query: str) -> list[Any]:
        """Run a query on a connection of its own."""
        connection: Any = await asyncpg.connect(self.urls.database)
        try:
            return await connection.fetch(query)
        finally:
            await connection.close()

    async def fetchval(self, query: str) -> Any:
        """Run a query of one value."""
        return (await self.fetch(query))[0][0]


@contextmanager
def a_standby(servers: Any, database_url: str) -> Generator[str]:
    """Run a hot standby of the session's PostgreSQL for the block; gives the URL of the same database on it."""
    home, program = Path(tempfile.mkdtemp(prefix="tp-")), Postgres.program("pg_basebackup")
    server, account = Postgres(home), Account.of_data(home)
    source = Path(servers.urls.database.split("host=")[1].split("&")[0])
    account.make_private(home)
    words = ("-D", server.data, "-h", source, "-p", "5432", "-U", "postgres", "-R", "-c", "fast", "--no-sync")
    try:
        server.run((*account.prefix(program, home, source / "socket"), program, *words))
        server.start()
        assert wait_until(server.is_ready, 30)
        yield database_url.replace(str(source), str(server.sockets))
    finally:
        server.ask_to_stop()
        assert wait_until(server.is_down, 30)
        shutil.rmtree(home, ignore_errors=True)
