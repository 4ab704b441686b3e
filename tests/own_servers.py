"""A PostgreSQL and a Redis of one test's own, for tests that stop them or fill them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
from arq.connections import ArqRedis
from commands import Service

from tidepool import embedded


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
