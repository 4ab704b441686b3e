"""Reads how many connections the PostgreSQL server has, and who uses them.

`tidepool.fleet.budget` divides among the workers the connections that nobody else has. A worker's connections are
recognized by their application names: `tidepool:{worker_id}` for those of the pool, `tidepool:{worker_id}:stats` for
the side connection, outside the pool. Such a name counts only if the connection's role may write the ledger.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from tidepool.pool.side_connection import SideConnection
from tidepool.storage.queries import Queries

_SQL = Queries("capacity", "tidepool.fleet")
_OURS = "tidepool:"
"""The prefix of the application names of workers' connections."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """The limits of the PostgreSQL server on connections, and its open client connections, as read at one time.

    A limit of -1 means no limit. *Others* are the connections that belong to no worker.
    """

    max_connections: int
    reserved: int
    """The number of connections that the server keeps for superusers, and for roles with a grant to use them."""
    role_limit: int
    database_limit: int
    by_worker: Mapping[str, int]
    """The number of connections of each worker, live or not, by worker id."""
    others: int
    others_of_role: int
    """Those of the others that have the reader's own role."""
    others_of_database: int
    """Those of the others that are in the reader's own database."""

    @classmethod
    async def read(cls, side: SideConnection) -> Self:
        """Read limits and connections from the server, over *side*. Raises the errors of `tidepool.pool.faults`."""
        async with side.use() as connection:
            rows = await connection.fetch(_SQL.of(connection.schema)["read"])
        by_worker: Counter[str] = Counter()
        others: Counter[str] = Counter()
        for row in rows:
            if (worker_id := _worker_id(row["application_name"])) is not None:
                by_worker[worker_id] += row["count"]
            else:
                others["all"] += row["count"]
                others["role"] += row["count"] if row["same_role"] else 0
                others["database"] += row["count"] if row["same_database"] else 0
        limits = rows[0]
        return cls(
            max_connections=limits["max_connections"],
            reserved=limits["superuser_reserved_connections"] + limits["reserved_connections"],
            role_limit=limits["role_limit"],
            database_limit=limits["database_limit"],
            by_worker=dict(by_worker),
            others=others["all"],
            others_of_role=others["role"],
            others_of_database=others["database"],
        )

    def room(self, margin: int) -> int:
        """Return how many connections all workers together may have: what the strictest limit leaves, less *margin*.

        The limits are those of the server, the role and the database. From each limit, the connections of other
        programs that count against that limit are subtracted, and from the server's also the reserved ones.
        """
        rooms = [self.max_connections - self.reserved - self.others]
        if self.role_limit >= 0:
            rooms.append(self.role_limit - self.others_of_role)
        if self.database_limit >= 0:
            rooms.append(self.database_limit - self.others_of_database)
        return min(rooms) - margin


def _worker_id(application_name: str) -> str | None:
    """Return the id of the worker, live or not, that a connection's name has; None if it is not that of a worker."""
    if not application_name.startswith(_OURS):
        return None
    return application_name.removeprefix(_OURS).partition(":")[0]
