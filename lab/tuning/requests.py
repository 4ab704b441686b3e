"""Two ways to send one request and wait for its outcome: as a job through Redis, or over HTTP to the HTTP front."""

import asyncio
import json
import math
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from urllib.parse import urlsplit

from tidepool.client import JobClient
from tidepool.jobs.outcomes import Applied, Rejected
from tidepool.queue.connection import RedisClient
from tidepool.web.waiting import Waits

_PREFER_S = 5
_TIMEOUT_S = 30.0
_MOST_IDLE_S = 3.0
"""Max seconds for which an unused connection is kept. The HTTP front closes one after 5 s (uvicorn's keep-alive)."""
_OUTCOME = (200, 201)


class Jobs:
    """Enqueues create_user jobs in Redis and waits for their outcomes, as the HTTP front does for its clients."""

    def __init__(self, redis: RedisClient) -> None:
        self._client, self._waits = JobClient(redis), Waits(redis)
        self._mark = secrets.token_hex(4)

    async def send(self, _user: int, number: int) -> str:
        """Enqueue a job and wait for its outcome, max 30 s. Return the error, or an empty string if it was applied."""
        job_id = f"load-{self._mark}-{number}"
        await self._client.enqueue("create_user", fields(self._mark, number), job_id=job_id)
        match await self._waits.outcome(job_id, _TIMEOUT_S):
            case Applied():
                return ""
            case Rejected(reason=reason):
                return reason
            case None:
                return f"no outcome within {_TIMEOUT_S:.0f} s"
            case _:
                return "failed"


class Front:
    """Sends `POST /users/` to the HTTP front at *url*. Each user has a connection and a thread of its own.

    *token* is sent for authentication unless it is None.
    """

    def __init__(self, url: str, *, users: int, token: str | None) -> None:
        self._at = urlsplit(url)
        self._mark = secrets.token_hex(4)
        self._threads = ThreadPoolExecutor(users, thread_name_prefix="user")
        self._connections: dict[int, HTTPConnection] = {}
        self._used_s: dict[int, float] = {}
        self._headers = {"Content-Type": "application/json", "Prefer": f"wait={_PREFER_S}"}
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token}"

    def connect(self) -> None:
        """Open the connection of the first user. Raises `OSError` if the server cannot be reached."""
        self._connect(0).connect()

    async def send(self, user: int, number: int) -> str:
        """Send one request and wait for its outcome. Return the error, or an empty string if the user was created."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._post, user, number)

    def close(self) -> None:
        """Wait for requests under way, then close all connections."""
        self._threads.shutdown()
        for connection in self._connections.values():
            connection.close()

    def _post(self, user: int, number: int) -> str:
        connection = self._connection(user)
        try:
            body = json.dumps(fields(self._mark, number))
            connection.request("POST", f"{self._at.path.rstrip('/')}/users/", body, self._headers)
            answer = connection.getresponse()
            answer.read()
        except (OSError, HTTPException) as error:
            connection.close()
            del self._connections[user]
            return f"{type(error).__name__}"
        self._used_s[user] = time.monotonic()
        if answer.status in _OUTCOME:
            return ""
        return f"HTTP {answer.status}" + (f": no outcome within {_PREFER_S} s" if answer.status == 202 else "")  # noqa: PLR2004

    def _connection(self, user: int) -> HTTPConnection:
        """Return the connection of *user*. It is opened again if the HTTP front may have closed it."""
        connection = self._connections.get(user) or self._connect(user)
        if time.monotonic() - self._used_s.get(user, math.inf) > _MOST_IDLE_S:
            connection.close()  # the next request opens it
        return connection

    def _connect(self, user: int) -> HTTPConnection:
        kind = HTTPSConnection if self._at.scheme == "https" else HTTPConnection
        self._connections[user] = kind(self._at.hostname or "localhost", self._at.port, timeout=_TIMEOUT_S)
        return self._connections[user]


def fields(mark: str, number: int) -> dict[str, str]:
    """Return the fields of a new user with a username and an email that *mark* and *number* make unique."""
    name = f"load.{mark}.{number}"
    return {"username": name, "email": f"{name}@example.org", "full_name": "Grace Laboratory"}
