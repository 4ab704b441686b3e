"""Who a worker process is, in its rows, its leases and its database sessions."""

import os
import secrets
import socket
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime

_HOST_LENGTH = 30


@dataclass(frozen=True, slots=True)
class Identity:
    """One start of one worker process."""

    instance_id: str
    worker_id: str
    host: str
    started_at: datetime


def of_this_process() -> Identity:
    """Return a new identity: host and pid for people, and a random part, since a container's pid is always 1."""
    return Identity(
        instance_id=str(uuid.uuid4()),
        worker_id=f"{worker_id_prefix(os.getpid())}{secrets.token_hex(2)}",
        host=socket.gethostname(),
        started_at=datetime.now(UTC),
    )


def worker_id_prefix(pid: int) -> str:
    """Return what the id of a worker begins with that runs on this host as *pid*."""
    return f"{socket.gethostname()[:_HOST_LENGTH]}-{pid}-"
