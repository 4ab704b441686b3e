"""Reads how many connections the PostgreSQL server has, and who uses them.

`tidepool.fleet.budget` divides among the workers the connections that nobody else has. A worker's connections are
recognized by their application names: `tidepool:{worker_id}` for those of the pool, `tidepool:{worker_id}:stats` for
the side connection, outside the pool. Such a name counts only if the connection's role may write the ledger.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Self

from tidepool.pool.side_connection import SideConnection
from tidepool.storage import queries

_SQL = queries.load("capacity", "tidepool.fleet")
_OURS = "tidepool:"
"""The prefix of the application names of workers' connections."""
_LIMITS = (
    "max_connections", "superuser_reserved_connections", "reserved_connections", "role_limit", "database_limit"
)  # fmt: skip
_OF_BACKENDS = ("application_name", "same_role", "same_database", "count")


@dataclass(frozen=True, slots=True)
class Backends:
    """The number of connections with one application name, role and database.

    *same_role* and *same_database* say whether these are the reader's own.
    """

    application_name: str
    same_role: bool
    same_database: bool
    count: int

    @property
    def worker_id(self) -> str | None:
        """The id of the worker, live or not, that the application name has; None if it is not that of a worker."""
        if not self.application_name.startswith(_OURS):
            return None
        return self.application_name.removeprefix(_OURS).partition(":")[0]


@dataclass(frozen=True, slots=True)
class Capacity:
    """One reading of the server: its limits on connections (-1: no limit), and its client connections at that time."""

    max_connections: int
    superuser_reserved_connections: int
    reserved_connections: int
    role_limit: int
    database_limit: int
    backends: tuple[Backends, ...]

    @classmethod
    async def read(cls, side: SideConnection) -> Self:
        """Read the capacity over the side connection. Raises the errors of `tidepool.pool.faults`."""
        async with side.use() as connection:
            rows = await connection.fetch(_SQL["read"])
        backends = tuple(Backends(**{name: row[name] for name in _OF_BACKENDS}) for row in rows)
        return cls(**{name: rows[0][name] for name in _LIMITS}, backends=backends)

    @property
    def reserved(self) -> int:
        """The number of connections that the server keeps for superusers, and for roles with a grant to use them."""
        return self.superuser_reserved_connections + self.reserved_connections

    @property
    def by_worker(self) -> dict[str, int]:
        """The number of connections of each worker, live or not, by worker id."""
        counts: Counter[str] = Counter()
        for backends in self.backends:
            if backends.worker_id is not None:
                counts[backends.worker_id] += backends.count
        return dict(counts)

    @property
    def others(self) -> int:
        """The number of connections that belong to no worker."""
        return _sum(self._others())

    def room(self, margin: int) -> int:
        """Return how many connections all workers together may have.

        That is what the strictest limit leaves, less *margin*. From each limit the connections of others that it counts
        are subtracted: those of the same role from the role's limit, those of the same database from the database's,
        and all of them and the reserved ones from the server's.
        """
        rooms = [self.max_connections - self.reserved - self.others]
        if self.role_limit >= 0:
            rooms.append(self.role_limit - _sum(one for one in self._others() if one.same_role))
        if self.database_limit >= 0:
            rooms.append(self.database_limit - _sum(one for one in self._others() if one.same_database))
        return min(rooms) - margin

    def _others(self) -> Iterator[Backends]:
        return (backends for backends in self.backends if backends.worker_id is None)


def _sum(backends: Iterable[Backends]) -> int:
    return sum(one.count for one in backends)
