"""How many connections the PostgreSQL server can give, and who has them now.

`tidepool.fleet.budget` divides among the workers what is left beside everybody else. A worker is known by its
application name: `tidepool:{worker_id}` the pool's, `tidepool:{worker_id}:stats` that beside the pool,
and only of a role that may write the ledger.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tidepool.pool.side_connection import SideConnection
from tidepool.storage import queries

_SQL = queries.load("capacity", "tidepool.fleet")
_OURS = "tidepool:"


@dataclass(frozen=True, slots=True)
class Backends:
    """Connections of one application, role and database."""

    application_name: str
    same_role: bool
    same_database: bool
    count: int

    @property
    def worker_id(self) -> str | None:
        """Which worker they say they belong to, alive or not; None: to something else."""
        if not self.application_name.startswith(_OURS):
            return None
        return self.application_name.removeprefix(_OURS).partition(":")[0]


@dataclass(frozen=True, slots=True)
class Capacity:
    """One reading: the limits on connections, of which -1 is none, and the client backends of that moment."""

    max_connections: int
    superuser_reserved_connections: int
    reserved_connections: int
    role_limit: int
    database_limit: int
    backends: tuple[Backends, ...]

    @property
    def reserved(self) -> int:
        """How many connections the server keeps for superusers and for those to whom it has granted them."""
        return self.superuser_reserved_connections + self.reserved_connections

    @property
    def by_worker(self) -> dict[str, int]:
        """How many connections each worker has, whether it is alive or not."""
        counts: Counter[str] = Counter()
        for backends in self.backends:
            if backends.worker_id is not None:
                counts[backends.worker_id] += backends.count
        return dict(counts)

    @property
    def others(self) -> int:
        """How many connections belong to no worker."""
        return _sum(self._others())

    def room(self, margin: int) -> int:
        """Return what the workers may have together: the least limit, less what others have, less *margin*.

        Each limit is lessened by those whom it counts: the role's by the same role's connections, the database's by
        the same database's, the server's by all and by what it reserves.
        """
        rooms = [self.max_connections - self.reserved - self.others]
        if self.role_limit >= 0:
            rooms.append(self.role_limit - _sum(one for one in self._others() if one.same_role))
        if self.database_limit >= 0:
            rooms.append(self.database_limit - _sum(one for one in self._others() if one.same_database))
        return min(rooms) - margin

    def _others(self) -> Iterator[Backends]:
        return (backends for backends in self.backends if backends.worker_id is None)


async def read(side: SideConnection) -> Capacity:
    """Read it, over the connection beside the pool. Raises as that."""
    async with side.use() as connection:
        rows = await connection.fetch(_SQL["read"])
    limits = (
        "max_connections",
        "superuser_reserved_connections",
        "reserved_connections",
        "role_limit",
        "database_limit",
    )
    names = ("application_name", "same_role", "same_database", "count")
    backends = tuple(Backends(**{name: row[name] for name in names}) for row in rows)
    return Capacity(**{name: rows[0][name] for name in limits}, backends=backends)


def _sum(backends: Iterable[Backends]) -> int:
    return sum(one.count for one in backends)
