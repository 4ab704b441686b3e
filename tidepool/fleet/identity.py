"""Identifies a worker process in its database rows, in its leases in Redis, and in its database sessions."""

import os
import secrets
import socket
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self
from uuid import UUID, uuid4

_HOST_LENGTH = 30
"""Max characters of the host's name in a worker id: an application name of PostgreSQL has 63 bytes for all parts."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Identifies one start of one worker process, by a UUID and by a readable worker id."""

    instance_id: UUID
    worker_id: str
    host: str
    started_at: datetime

    @classmethod
    def of_this_process(cls) -> Self:
        """Return a new identity for this process; each call returns another one.

        The worker id is `{host}-{pid}-` and four random hexadecimal digits, since a container's pid is always 1.
        """
        return cls(
            instance_id=uuid4(),
            worker_id=f"{cls.worker_id_prefix(os.getpid())}{secrets.token_hex(2)}",
            host=socket.gethostname(),
            started_at=datetime.now(UTC),
        )

    @staticmethod
    def worker_id_prefix(pid: int) -> str:
        """Return `{host}-{pid}-`, the prefix of the ids of workers that run on this host with the process id *pid*."""
        return f"{socket.gethostname()[:_HOST_LENGTH]}-{pid}-"
