"""Types for the rows of `db_snapshots`, which has the state of the database server at each tick."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConnections:
    """The server's connection limits, and how many connections workers and others have, for the connection budget."""

    max_connections: int
    reserved_connections: int
    role_limit: int | None
    """The connection limit of this process's role; None if it has none of its own."""
    database_limit: int | None
    backends: int
    """The number of client connections, in all databases."""
    backends_of_workers: int
    backends_orphaned: int
    """The number of connections of workers that are not live any more."""
    workers: int
    granted: int
    """The number of connections that all workers together have been granted or have open."""
    usable: int
    """The max number of connections that all workers together may have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerReading(ServerConnections):
    """The columns of a row that the advice about pools and the operators' page use.

    *active* and *waiting_lock* count sessions of this database: those that run a statement, and of these the ones that
    wait for a lock.
    """

    tick: datetime
    active: int
    waiting_lock: int
