"""The records of the database server: rows of `db_snapshots`, one for each tick."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConnections:
    """The server's connection limits and its sessions by owner: the columns that the connection budget reads."""

    max_connections: int
    reserved_connections: int
    role_limit: int | None
    """None: the role has no limit of its own."""
    database_limit: int | None
    backends: int
    """Connections of clients, in all databases."""
    backends_of_workers: int
    backends_orphaned: int
    """Connections of workers that are not live any more."""
    workers: int
    granted: int
    """Connections that all workers hold together."""
    usable: int
    """Connections that all workers may have together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerReading(ServerConnections):
    """The part of a row that verdicts and the page read; the counts of sessions are of this database."""

    tick: datetime
    active: int
    waiting_lock: int
