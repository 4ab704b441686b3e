"""What a process reports of a connection pool: of its own one, or of one that the application has made itself."""

import asyncio
from collections.abc import Sequence
from typing import Protocol

from tidepool.pool.figures import PoolStats


class Holder(Protocol):
    """A caller that has a connection of a pool."""

    @property
    def server_pid(self) -> int:
        """The process id of the connection's PostgreSQL backend; 0 if it is not known."""
        ...

    @property
    def since_ns(self) -> int:
        """When the connection was checked out (`time.perf_counter_ns`)."""
        ...

    @property
    def us(self) -> int:
        """How long the connection has been checked out, in microseconds."""
        ...

    @property
    def task(self) -> "asyncio.Task[object] | None":
        """The task that has the connection; None if that is not known."""
        ...

    @property
    def task_name(self) -> str:
        """The name of that task; empty if it is not known."""
        ...

    @property
    def where(self) -> str:
        """The code that asked for the connection, as `function:line`; empty if it is not known."""
        ...


class WatchedPool(Protocol):
    """A connection pool whose figures a process reports: a `Pool`, or an `ApplicationPool`."""

    stats: PoolStats

    @property
    def min_size(self) -> int:
        """The number of connections that are kept open."""
        ...

    @property
    def max_size(self) -> int:
        """The max number of connections."""
        ...

    @property
    def limit(self) -> int:
        """The number of connections that may be open at present: `max_size`, or fewer."""
        ...

    @property
    def size(self) -> int:
        """The number of open connections."""
        ...

    @property
    def idle(self) -> int:
        """The number of open connections that are not in use."""
        ...

    @property
    def overdue_s(self) -> float:
        """Seconds after which a connection that is in use counts as leaked."""
        ...

    def holders(self) -> Sequence[Holder]:
        """Return who has a connection now, the longest holder first."""
        ...


class UnknownPool:
    """Stands for the pool of a process whose pool is not known, so that its snapshots can have everything else.

    All its figures are zero.
    """

    min_size = max_size = limit = size = idle = 0
    overdue_s = 0.0

    def __init__(self) -> None:
        self.stats = PoolStats()

    def holders(self) -> Sequence[Holder]:
        """Return nothing."""
        return ()
