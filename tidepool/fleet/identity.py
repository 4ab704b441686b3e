"""Who a worker process is, in its rows, its leases and its database sessions."""

import os
import secrets
import socket
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self
from uuid import UUID, uuid4

_HOST_LENGTH = 30
"""Characters of a host's name: an application name of PostgreSQL has 63 bytes for all parts."""


@dataclass(frozen=True, slots=True)
class Identity:
    """One start of one worker process."""

    instance_id: UUID
    worker_id: str
    host: str
    started_at: datetime

    @classmethod
    def of_this_process(cls) -> Self:
        """Return a new identity: host and pid for people, and a random part, since a container's pid is always 1."""
        return cls(
            instance_id=uuid4(),
            worker_id=f"{cls.worker_id_prefix(os.getpid())}{secrets.token_hex(2)}",
            host=socket.gethostname(),
            started_at=datetime.now(UTC),
        )

    @staticmethod
    def worker_id_prefix(pid: int) -> str:
        """Return the beginning of the id of a worker that runs on this host as *pid*."""
        return f"{socket.gethostname()[:_HOST_LENGTH]}-{pid}-"
