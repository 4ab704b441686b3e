"""Defines the limits of the HTTP server on connections, rates and bodies, and counts its connections."""

import resource
import time
from dataclasses import dataclass, field
from typing import Protocol

HEAD_BYTES = 65_536
"""Max bytes of a request's head; more is answered 431. Cookies and long URLs of real clients stay under 16 KiB."""
HEADERS = 100
"""Max header lines of a head; more is answered 431. As in Apache and in Python's own client."""
ARRIVAL_S = 10.0
"""Seconds in which a head has to arrive, and a body, which gets one more second for each `BODY_RATE` bytes."""
BODY_RATE = 65_536
"""Bytes a second that a body has to arrive with after the first ten seconds."""
PIPELINED = 16
"""Max requests of one connection that wait for the answer to an earlier one; a connection with more is closed."""
UNFINISHED_BYTES = 4 * 1024 * 1024
"""Max bytes of unfinished requests, all connections together; a process needs up to three times as much memory for
them. Requests that arrive in one piece do not count."""
SEND_S = 30.0
"""Seconds in which a client has to read on, if an answer waits for it; after that the connection is closed."""
READ_BYTES = 16_384
"""Max bytes of one read before a connection is handed to uvicorn, and of one piece for the parser: a head is over its
bound by no more than that."""
SMALL_BYTES = 1024
"""Bytes below which a read counts as small. A new connection that has sent so many is handed to uvicorn even without a
complete head."""
SMALL_READS, READ_PAUSE_S = 4, 0.25
"""After so many small reads of a request, there is one read in so many seconds, and after a refusal from the first on.
A client that sends byte by byte costs little."""
LINGER_S, LINGER_BYTES = 1.0, 256 * 1024
"""How long, and how much, is read after a refusal: closing at once could discard the answer on its way."""
_RESERVED_FILES = 64
"""File descriptors that stay free for the servers' connections, files and logs."""
_MIN_CONNECTIONS = 16


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of an HTTP server on connections, rates and bodies. The front and a worker's port have different ones.

    The front is the web application; a worker's port serves health checks and metrics.
    """

    connections: int
    """Max open connections, if the process may open enough files; see `max_connections`."""
    body_bytes: int
    """Max bytes of a body that is not read, as after a refusal; a connection that sends more is closed."""
    accepts_per_s: float | None = None
    """Max new connections a second; others wait in the kernel's backlog. None: any number."""
    first_requests_per_s: float | None = None
    """Max new connections a second whose first request is handed to uvicorn, which costs ten times as much as accepting
    them; others wait. None: any number."""
    refusal_delay_s: float = 0.0
    """Seconds before a malformed request is answered: a client that repeats it in a loop costs little then."""
    share_of_files: float = 1.0
    """The part (0 to 1) of the free file descriptors that the server's connections may use."""

    def max_connections(self) -> int:
        """Return the max number of open connections: `connections`, or fewer if the process may open too few files.

        The operating system's limit on open files is RLIMIT_NOFILE.
        """
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft == resource.RLIM_INFINITY:
            return self.connections
        free = int((soft - _RESERVED_FILES) * self.share_of_files)
        return min(self.connections, max(_MIN_CONNECTIONS, free))


class Pace:
    """A rate limiter: admits up to *per_s* callers a second, and after a pause up to *burst* callers at once.

    If *per_s* is None, there is no limit.
    """

    def __init__(self, per_s: float | None, burst: float) -> None:
        self._step_s = 1 / per_s if per_s else 0.0
        self._burst_s = burst * self._step_s
        self._next_s = 0.0
        """When the next caller would be admitted if there were no bursts, in seconds of the monotonic clock."""

    def wait_s(self) -> float:
        """Return the seconds until the next caller can be admitted, or 0 if that is possible now. Admits no caller."""
        return max(0.0, self._next_s + self._step_s - self._burst_s - time.monotonic()) if self._step_s else 0.0

    def admit(self) -> float:
        """Admit one caller, and return after how many seconds the caller may begin; 0 if at once.

        Callers begin in the order in which they were admitted.
        """
        wait_s = self.wait_s()
        self.count()
        return wait_s

    def count(self) -> None:
        """Count one caller as admitted, after `wait_s` returned 0."""
        self._next_s = max(self._next_s, time.monotonic()) + self._step_s


class _Evictable(Protocol):
    """A connection that the server can close to make room for another one."""

    def evict(self) -> None:
        """Close the connection at once."""
        ...


@dataclass(slots=True)
class OpenConnections:
    """Counts the open connections of one server, and closes idle ones when *limit* is reached."""

    limit: int
    count: int = 0
    unfinished_bytes: int = 0
    """Bytes of requests that have not arrived as a whole."""
    evictable: dict[_Evictable, None] = field(default_factory=dict)
    """Those without a complete request: idle, or in the middle of a head or body. The longest unoccupied is first."""

    def make_room(self) -> bool:
        """Return whether one more connection may be opened; at *limit*, first close the connection idle for longest.

        Returns False if there are *limit* connections and none of them is idle. A connection without a complete request
        counts as idle.
        """
        return self.count < self.limit or self.evict()

    def evict(self) -> bool:
        """Close the connection that has been idle for the longest time; return False if none is idle.

        A connection without a complete request counts as idle.
        """
        victim = next(iter(self.evictable), None)
        if victim is None:
            return False
        del self.evictable[victim]
        victim.evict()
        return True
