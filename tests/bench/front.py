"""How fast the front answers callers who wait: `python -m tests.bench.front URL --callers N`.

Each caller has a connection and posts one order after the other with `Prefer: wait`; a request counts when
its order is committed (201). Needs a front (`python -m producer serve`) and a worker. The client is a bare
protocol, since it shares the machine with what it measures.
"""

import argparse
import asyncio
import json
import time
from typing import Any
from urllib.parse import urlsplit

import uvloop

_WARM_UP_S = 1.0


class Caller(asyncio.Protocol):
    """Posts again as soon as it has its answer, until *ends_at_s*."""

    def __init__(self, request: bytes, ends_at_s: float) -> None:
        self._request = request
        self._ends_at_s = ends_at_s
        self._answer = b""
        self._sent_at_s = 0.0
        self.done = asyncio.get_running_loop().create_future()
        self.answered: list[tuple[float, float]] = []
        """When, and after how many seconds."""
        self.statuses: dict[int, int] = {}

    def connection_made(self, transport: Any) -> None:
        """Send the first request."""
        self._transport = transport
        self._send()

    def connection_lost(self, _error: Exception | None) -> None:
        """Count as done what was answered."""
        if not self.done.done():
            self.done.set_result(None)

    def data_received(self, data: bytes) -> None:
        """Take an answer, and send the next request."""
        self._answer += data
        head, end, body = self._answer.partition(b"\r\n\r\n")
        if not end or len(body) < int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]):
            return
        now_s = time.perf_counter()
        status = int(head[9:12])
        self.statuses[status] = self.statuses.get(status, 0) + 1
        self.answered.append((now_s, now_s - self._sent_at_s))
        self.last = body
        if now_s < self._ends_at_s:
            self._send()
        else:
            self._transport.close()

    def _send(self) -> None:
        self._answer = b""
        self._sent_at_s = time.perf_counter()
        self._transport.write(self._request)


def request(address: Any, path: str, fields: dict[str, Any], token: str | None) -> bytes:
    """Return a request's bytes."""
    body = json.dumps(fields).encode()
    lines = [
        f"POST {path} HTTP/1.1",
        f"Host: {address.netloc}",
        "Content-Type: application/json",
        "Prefer: wait=20",
        f"Content-Length: {len(body)}",
        *([f"Authorization: Bearer {token}"] if token else []),
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def call(address: Any, content: bytes, ends_at_s: float) -> Caller:
    """Run one caller to its end."""
    loop = asyncio.get_running_loop()
    _, caller = await loop.create_connection(lambda: Caller(content, ends_at_s), address.hostname, address.port)
    await caller.done
    return caller


async def measure(url: str, callers: int, seconds: float, token: str | None) -> dict[str, Any]:
    """Create a user and a product, let the callers order, and return the figures."""
    address, name = urlsplit(url), f"bench-{time.time_ns()}"
    user = {"username": name, "email": f"{name}@example.org", "full_name": "Bench"}
    product = {"sku": name, "name": "Bench", "price": "12.50", "category": "Bench"}
    for path, fields in (("/users/", user), ("/products/", product)):
        created = await call(address, request(address, path, fields, token), 0.0)
        assert created.statuses == {201: 1}, created.last
    order = request(address, "/orders/", {"username": name, "sku": name, "quantity": 2}, token)
    counts_from_s = time.perf_counter() + _WARM_UP_S
    done = await asyncio.gather(*(call(address, order, counts_from_s + seconds) for _ in range(callers)))
    latencies_s = sorted(took_s for caller in done for at_s, took_s in caller.answered if at_s >= counts_from_s)
    statuses = [caller.statuses for caller in done]
    figures = {f"p{q}_ms": round(latencies_s[len(latencies_s) * q // 100] * 1000, 2) for q in (50, 95, 99)}
    return {
        "callers": callers,
        **figures,
        "requests_per_second": round(len(latencies_s) / seconds),
        "statuses": {status: sum(one.get(status, 0) for one in statuses) for status in set().union(*statuses)},
    }


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.front", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("url", metavar="URL", help="URL of a running HTTP front, such as http://127.0.0.1:8000")
    parser.add_argument("--callers", type=int, default=1, metavar="N", help="number of concurrent callers (default 1)")
    parser.add_argument(
        "--seconds",
        type=float,
        default=5.0,
        metavar="S",
        help="seconds to measure for, after one second to warm up (default 5)",
    )
    parser.add_argument(
        "--token", metavar="T", help="access token of the front, its setting FRONT_TOKEN (default: none)"
    )
    given = parser.parse_args()
    print(json.dumps(uvloop.run(measure(given.url, given.callers, given.seconds, given.token))))


if __name__ == "__main__":
    main()
