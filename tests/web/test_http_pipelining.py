"""Several requests sent over one HTTP connection without waiting: which are answered, and when the connection ends."""

import asyncio

import pytest
from echo_server import GET, Served, serving, true_of
from waiting import until

from tidepool.bounded_http import limits as bounds
from tidepool.bounded_http.limits import Limits


async def test_an_earlier_request_is_answered_before_the_connection_ends(served: Served) -> None:
    """A refusal of a later request is never the answer to it."""
    answer = await served.answer(GET + b"\r\n" + GET + b"x: " + b"a" * 90_000)
    assert b"HTTP/1.1 200 OK\r\n" == answer[:17]


@pytest.mark.parametrize("delay_s", [0.0, 0.3])
async def test_a_connection_with_too_many_requests_ends_after_the_answer_that_is_under_way(delay_s: float) -> None:
    """The other requests are not answered, and nothing more is read meanwhile."""
    async with serving(Limits(connections=8, body_bytes=100, refusal_delay_s=delay_s)) as served:
        reader, writer = await served.connect(b"GET /hold HTTP/1.1\r\n\r\n" + (GET + b"\r\n") * 40)
        await until(lambda: true_of(served.app.held))
        served.app.let_go.set()
        assert 1 == (await asyncio.wait_for(reader.read(), 10)).count(b"HTTP/1.1 200 OK")
        writer.close()


async def test_pipelined_requests_are_bounded(served: Served) -> None:
    """Those that wait for an answer to an earlier one; with more of them the connection ends after that answer."""
    hold = b"GET /hold HTTP/1.1\r\nHost: localhost\r\n\r\n"
    reader, writer = await served.connect(hold * 600)
    await until(lambda: true_of(served.app.held))
    served.app.let_go.set()
    assert 1 == (await reader.read()).count(b"HTTP/1.1 200")
    writer.close()
    assert len(served.app.seen) < 2 * bounds.PIPELINED
