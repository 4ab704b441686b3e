"""Several requests sent over one HTTP connection without waiting: which are answered, and when the connection ends."""

import asyncio

import pytest
from echo_server import CHUNKED, GET, LARGE, REQUEST, SIZED, Served, headers, serving, true_of
from waiting import until

from tidepool.bounded_http import limits as bounds
from tidepool.bounded_http.limits import Limits

HOLD = b"GET /hold HTTP/1.1\r\nHost: localhost\r\n\r\n"
FAULTY = pytest.mark.parametrize(
    ("faulty", "status"),
    [(GET + headers(101) + b"\r\n", 431), (b"no request\r\n\r\n", 400), (CHUNKED + b"-1\r\n", 400)],
    ids=["head", "no request", "body"],
)


@FAULTY
async def test_a_faulty_request_behind_a_held_one_is_not_answered(served: Served, faulty: bytes, status: int) -> None:
    """Nothing is sent before the earlier answer, and after it the connection closes."""
    reader, writer = await served.connect(HOLD + faulty)
    await until(lambda: true_of(served.app.held))
    served.app.let_go.set()
    answer = await reader.read()
    assert (b"HTTP/1.1 200", 1) == (answer[:12], answer.count(b"HTTP/1.1 "))
    assert b"connection: close\r\n" in answer
    assert b"%d" % status not in answer
    writer.close()


@FAULTY
async def test_a_faulty_request_behind_an_answered_one_is_refused(served: Served, faulty: bytes, status: int) -> None:
    """The connection closes after the refusal."""
    reader, writer = await served.connect(GET + b"\r\n")
    assert b"HTTP/1.1 200" == (await reader.readuntil(b"1 0"))[:12]
    writer.write(faulty)
    answer = await reader.read()
    assert (b"HTTP/1.1 %d" % status, 1) == (answer[:12], answer.count(b"HTTP/1.1 "))
    assert b"connection: close\r\n" in answer
    writer.close()


@FAULTY
async def test_a_faulty_request_takes_nothing_from_the_one_before_it(
    served: Served, faulty: bytes, status: int
) -> None:
    """The body of the earlier request reaches the application, even if both came in one piece."""
    answer = await served.answer(SIZED % 5 + b"hello" + faulty)
    assert b"2 5" == answer.rpartition(b"\r\n")[2]
    assert b"%d" % status not in answer


@pytest.mark.parametrize("between", [b"", GET + b"\r\n"], ids=["at once", "behind another"])
async def test_what_follows_a_faulty_request_does_not_cut_off_the_answer_under_way(
    served: Served, monkeypatch: pytest.MonkeyPatch, between: bytes
) -> None:
    """It is not read before that answer, however much it is."""
    monkeypatch.setattr(bounds, "READ_PAUSE_S", 0.0)
    reader, writer = await served.connect(HOLD + between + b"no request\r\n\r\n")
    await until(lambda: true_of(served.app.held))
    writer.write(b"a" * 4_000_000)
    assert [200] * 20 == [await served.status(REQUEST) for _ in range(20)]
    served.app.let_go.set()
    answer = await reader.readuntil(b"1 0")
    assert b"HTTP/1.1 200" == answer[:12]
    writer.transport.abort()


async def test_a_large_answer_is_sent_completely_before_the_connection_closes(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its client may read later than the connection closes in other cases."""
    monkeypatch.setattr(bounds, "LINGER_S", 0.0)
    reader, writer = await served.connect(b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\nno request\r\n\r\n")
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    await until(lambda: true_of(served.app.seen))
    assert [200] * 5 == [await served.status(REQUEST) for _ in range(5)]
    writer.transport.resume_reading()  # type: ignore[attr-defined]
    assert LARGE == len((await reader.read()).partition(b"\r\n\r\n")[2])
    writer.close()


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
    reader, writer = await served.connect(HOLD * 600)
    await until(lambda: true_of(served.app.held))
    served.app.let_go.set()
    assert 1 == (await reader.read()).count(b"HTTP/1.1 200")
    writer.close()
    assert len(served.app.seen) < 2 * bounds.PIPELINED
