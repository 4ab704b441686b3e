"""A provider that pretends to send mails, over HTTP, and keeps its own log of what it was asked to send."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from tests.fake_servers import listening


@dataclass
class Request:
    """A request to send a mail: its try, the worker process, and when it was sent and accepted or refused.

    Times are in seconds of the clock.
    """

    number: int
    uid: str
    attempt: int
    worker: int
    body_bytes: int
    sent_s: float
    ended_s: float | None = None
    is_accepted: bool = False

    @property
    def external_id(self) -> str:
        """The provider's id of the mail."""
        return f"mail-{self.number}"


@dataclass
class Provider:
    """Accepts mails after *delay_s* seconds; those that *refusals* names are refused as often as it says, at first.

    A mail is accepted also if nobody waits for the answer any more.
    """

    refusals: Mapping[str, int]
    delay_s: float = 0.0
    url: str = ""
    requests: list[Request] = field(default_factory=list)
    accepted: asyncio.Queue[Request] = field(default_factory=asyncio.Queue)
    """The accepted requests, which the bench reports to the application."""
    _asked: Counter[str] = field(default_factory=Counter)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Listen while the block runs."""
        async with listening(self._answer) as port:
            self.url = f"http://127.0.0.1:{port}"
            yield

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request after the other, until the connection ends."""
        while True:
            request = await self._read(reader)
            await asyncio.sleep(self.delay_s)
            request.ended_s = time.time()
            request.is_accepted = self._asked[request.uid] > self.refusals.get(request.uid, 0)
            if request.is_accepted:
                self.accepted.put_nowait(request)
            status = "200 OK" if request.is_accepted else "503 Service Unavailable"
            body = json.dumps({"id": request.external_id})
            writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
            await writer.drain()

    async def _read(self, reader: asyncio.StreamReader) -> Request:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[1:-2]
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        size = int(headers["content-length"])
        await reader.readexactly(size)
        uid, attempt, worker = headers["x-uid"], int(headers["x-try"]), int(headers["x-worker"])
        request = Request(len(self.requests), uid, attempt, worker, size, float(headers["x-sent-at"]))
        self.requests.append(request)
        self._asked[uid] += 1
        return request
