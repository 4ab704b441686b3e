"""Concurrent users: how many requests there are, and from when a latency counts."""

import asyncio
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from lab.tuning.requests import Front
from lab.tuning.users import run_users


async def test_every_user_sends_its_requests_one_after_the_other() -> None:
    """All at a time, none of them two at a time."""
    sent: dict[int, list[int]] = {}
    under_way: set[int] = set()

    async def send(user: int, number: int) -> str:
        assert user not in under_way
        under_way.add(user)
        sent.setdefault(user, []).append(number)
        await asyncio.sleep(0)
        under_way.remove(user)
        return ""

    figures = (await run_users(send, users=4, requests=5)).figures()
    assert {user: list(range(user * 5, user * 5 + 5)) for user in range(4)} == sent
    assert (20, 20, 1.0) == (figures["requests"], figures["succeeded"], figures["success_rate"])


async def test_what_fails_is_counted_by_its_fault() -> None:
    """The other requests count as succeeded."""

    async def send(_user: int, number: int) -> str:
        return "" if number % 4 else "HTTP 503"

    figures = (await run_users(send, users=2, requests=10)).figures()
    assert ({"HTTP 503": 5}, 15, 0.75) == (figures["faults"], figures["succeeded"], figures["success_rate"])


async def test_on_a_schedule_waiting_for_the_user_counts() -> None:
    """One user, a request each millisecond, an answer after ten: the fifth is due after 4 ms and answered after 50."""

    async def send(_user: int, _number: int) -> str:
        await asyncio.sleep(0.01)
        return ""

    scheduled = await run_users(send, users=1, requests=5, rate=1000)
    by_turns = await run_users(send, users=1, requests=5)
    assert 5 == len(scheduled.latencies_ms)
    assert max(scheduled.latencies_ms) >= 46
    assert min(by_turns.latencies_ms) < 46
    assert scheduled.latencies_ms == sorted(scheduled.latencies_ms)


@pytest.fixture
def front() -> Iterator[str]:
    """Give the address of a front that creates users, but for the requests without a wish to wait."""

    class Answering(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            known = self.path in ("/base/users/", "/closes/users/") and b'"username"' in body
            trusted = self.headers["Authorization"] == "Bearer secret"
            self.send_response(201 if known and trusted and self.headers["Prefer"] == "wait=5" else 401)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")
            self.close_connection = "closes" in self.path

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize(("token", "faults"), [("secret", {}), ("wrong", {"HTTP 401": 6}), (None, {"HTTP 401": 6})])
async def test_the_front_is_asked_to_wait_for_the_outcome(
    front: str, token: str | None, faults: dict[str, int]
) -> None:
    """With the token, over a connection of each user."""
    users = Front(f"{front}/base", users=2, token=token)
    try:
        tally = await run_users(users.send, users=2, requests=3)
    finally:
        users.close()
    assert faults == tally.figures()["faults"]


async def test_a_connection_that_was_idle_is_made_anew(front: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The front closes it after a while, as this one does at once: it was counted as a fault of the front."""
    monkeypatch.setattr("lab.tuning.requests._MOST_IDLE_S", -1.0)
    users = Front(f"{front}/closes", users=1, token="secret")
    try:
        users.connect()
        tally = await run_users(users.send, users=1, requests=3)
    finally:
        users.close()
    assert {} == tally.figures()["faults"]


async def test_a_front_that_is_not_there_is_a_fault() -> None:
    """The load test goes on."""
    users = Front("http://127.0.0.1:1", users=1, token=None)
    tally = await run_users(users.send, users=1, requests=2)
    users.close()
    assert {"ConnectionRefusedError": 2} == tally.figures()["faults"]
