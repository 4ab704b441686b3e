"""Who calls the front: trusted proxies, signing in and out, guesses, and HEAD."""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from factories import user_fields
from front import BEARER, TOKEN, a_front, front_app, running
from hypothesis import given
from hypothesis import strategies as st

from settings import load
from tidepool.pool.config import PoolConfig
from tidepool.web.callers import Callers, Rates
from tidepool.web.sign_in import Access

pytestmark = pytest.mark.usefixtures("shared_database")

PROXIES = "10.0.0.0/8,192.168.4.7,fd00::/8"


@pytest.fixture
async def locked(database: PoolConfig, redis_url: str) -> AsyncIterator[httpx.AsyncClient]:
    """Give a client of a front with a token; it comes through a trusted proxy."""
    variables = {"FRONT_TOKEN": TOKEN, "FRONT_TRUSTED_PROXIES": "127.0.0.1"}
    async with a_front(database.url, redis_url, **variables) as http:
        yield http


def seen(peer: str, *forwarded: str, proto: str = "", trusted: str = PROXIES) -> tuple[str, str]:
    """Return the key and the scheme of a request from *peer* with these X-Forwarded-For headers."""
    headers = [(b"x-forwarded-for", one.encode("latin-1")) for one in forwarded]
    headers += [(b"x-forwarded-proto", proto.encode())] if proto else []
    scope: dict[str, Any] = {"type": "http", "client": (peer, 1), "scheme": "http", "headers": headers}
    settings = load({"FRONT_TRUSTED_PROXIES": trusted})
    Callers(settings.front_trusted_proxies).find(scope)
    return Callers.key(scope), scope["scheme"]


@pytest.mark.parametrize(
    ("peer", "forwarded", "expected"),
    [
        ("10.0.0.1", ["203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", ["6.6.6.6, 203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", ["6.6.6.6", "203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", ["6.6.6.6, 203.0.113.9, 192.168.4.7"], "203.0.113.9"),
        ("10.0.0.1", ["10.0.0.9, 10.0.0.8"], "10.0.0.9"),
        ("10.0.0.1", ["203.0.113.9:4711"], "203.0.113.9"),
        ("10.0.0.1", ["[2001:db8:1:2::3]:4711"], "2001:db8:1:2::/64"),
        ("10.0.0.1", ["2001:db8:1:2:aaaa::3"], "2001:db8:1:2::/64"),
        ("10.0.0.1", ["::ffff:203.0.113.9"], "203.0.113.9"),
        ("::ffff:10.0.0.1", ["203.0.113.9"], "203.0.113.9"),
        ("fd00::1", ["203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", ["203.0.113.9, unknown"], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.9, nonsense, 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", ["x" * 60_000], "10.0.0.1"),
        ("10.0.0.1", [""], "10.0.0.1"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("127.0.0.1", ["203.0.113.9"], "127.0.0.1"),
        ("203.0.113.1", ["203.0.113.9"], "203.0.113.1"),
        ("192.168.4.8", ["203.0.113.9"], "192.168.4.8"),
        ("2001:db8:1:2::77", ["203.0.113.9"], "2001:db8:1:2::/64"),
        ("fe80::1%eth0", [], "fe80::/64"),
        ("", ["203.0.113.9"], "unknown"),
    ],
)
def test_the_caller_is_the_last_that_a_trusted_proxy_names(peer: str, forwarded: list[str], expected: str) -> None:
    """What stands before it, the caller may have written itself; nobody else than a trusted proxy is believed."""
    assert expected == seen(peer, *forwarded)[0]


@given(peer=st.sampled_from(["10.0.0.1", "127.0.0.1", "203.0.113.1"]), forwarded=st.lists(st.text(max_size=80)))
def test_whatever_a_header_says_the_key_is_short_and_an_address(peer: str, forwarded: list[str]) -> None:
    """Only a trusted peer can name another address than its own."""
    texts = [text.encode("utf-8", "replace").decode("latin-1") for text in forwarded]
    key, _ = seen(peer, *texts)
    assert len(key) <= len("0000:0000:0000:0000::/64")
    assert peer in (key, "10.0.0.1")


def test_without_trusted_proxies_nobody_is_believed() -> None:
    """Loopback neither."""
    assert ("127.0.0.1", "http") == seen("127.0.0.1", "203.0.113.9", proto="https", trusted="")


@pytest.mark.parametrize(
    ("peer", "proto", "expected"),
    [
        ("10.0.0.1", "https", "https"),
        ("10.0.0.1", "HTTPS", "https"),
        ("10.0.0.1", "http, https", "https"),
        ("10.0.0.1", "ftp", "http"),
        ("10.0.0.1", "https\x00", "http"),
        ("203.0.113.1", "https", "http"),
    ],
)
def test_the_scheme_is_a_trusted_proxys(peer: str, proto: str, expected: str) -> None:
    """The front trusts two proxies."""
    assert expected == seen(peer, proto=proto)[1]


async def test_cookies_and_redirects_follow_the_forwarded_scheme(locked: httpx.AsyncClient) -> None:
    """A cookie of a page with TLS is not sent without it."""
    tls = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "203.0.113.9"}
    secure = await locked.post("/sign-in", data={"token": TOKEN}, headers=tls)
    plain = await locked.post("/sign-in", data={"token": TOKEN})
    assert [True, False] == ["Secure" in answer.headers["set-cookie"] for answer in (secure, plain)]
    redirect = await locked.get("/users/1/", headers={**tls, **BEARER})
    assert (307, "https://localhost/users/1") == (redirect.status_code, redirect.headers["location"])


async def test_callers_with_the_token_are_counted_apart(database: PoolConfig, redis_url: str) -> None:
    """Others at the same address, as behind a gateway, do not use up what they may ask."""
    async with a_front(database.url, redis_url, FRONT_TOKEN=TOKEN, FRONT_RATE_LIMIT="3") as http:
        statuses = [(await http.get("/users/")).status_code for _ in range(9)]
        assert 429 in statuses
        assert 200 == (await http.get("/users/", headers=BEARER)).status_code


async def test_signing_out_ends_the_session(locked: httpx.AsyncClient) -> None:
    """The browser loses its cookie, and who has copied it cannot use it any more."""
    await locked.post("/sign-in", data={"token": TOKEN})
    cookie = locked.cookies["tidepool"]
    assert 200 == (await locked.get("/users/")).status_code
    assert 403 == (await locked.post("/sign-out", headers={"Origin": "http://evil.example"})).status_code
    answer = await locked.post("/sign-out")
    assert (303, "/sign-in") == (answer.status_code, answer.headers["location"])
    assert "tidepool" not in locked.cookies
    assert 401 == (await locked.get("/users/", headers={"Cookie": f"tidepool={cookie}"})).status_code
    assert 303 == (await locked.post("/sign-out")).status_code


async def test_only_a_front_with_a_token_has_a_button_to_sign_out(database: PoolConfig, redis_url: str) -> None:
    """Without one there is nothing to sign out of."""
    for variables, shown in (({"FRONT_TOKEN": TOKEN}, True), ({}, False)):
        async with a_front(database.url, redis_url, **variables) as http:
            page = (await http.get("/", headers=BEARER)).text
            assert shown == ('action="/sign-out">' in page)


async def test_wrong_tokens_are_logged_and_slowed(locked: httpx.AsyncClient, logs: list[Any]) -> None:
    """With the caller's address, which is refused after some; others still sign in."""

    async def tried(token: str, address: str) -> int:
        headers = {"X-Forwarded-For": address}
        return (await locked.post("/sign-in", data={"token": token}, headers=headers)).status_code

    wrong = [await tried(f"wrong{number}", "203.0.113.9") for number in range(8)]
    assert [401] * 5 == wrong[:5]
    assert 429 == wrong[-1]
    assert 429 == await tried(TOKEN, "203.0.113.9")
    assert 303 == await tried(TOKEN, "203.0.113.10")
    bearer = {"Authorization": "Bearer wrong", "X-Forwarded-For": "203.0.113.11"}
    for _ in range(9):
        assert 401 == (await locked.get("/users/", headers=bearer)).status_code
    failed = [(line["address"], line["way"]) for line in logs if line["event"] == "front.sign_in_failed"]
    assert set(failed) == {("203.0.113.9", "form"), ("203.0.113.11", "bearer")}
    assert len(failed) <= 14
    assert "wrong" not in str(logs).replace("wrong token", "")


async def test_a_form_to_sign_in_is_small(locked: httpx.AsyncClient) -> None:
    """Announced or not; and has few fields."""

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(5):
            yield b"a" * 1000

    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    announced = await locked.post("/sign-in", content=b"a=b&" * 1100, headers=kind)
    streamed = await locked.post("/sign-in", content=pieces(), headers=kind)
    fields = await locked.post("/sign-in", content=b"a=b&" * 1000 + b"token=" + TOKEN.encode(), headers=kind)
    assert [413, 413, 401] == [answer.status_code for answer in (announced, streamed, fields)]


def test_a_cookies_key_is_not_a_plain_hash_of_the_token() -> None:
    """Who has seen a cookie must not be able to try tokens by the million; several fronts share sessions."""
    cookie = Access(TOKEN).open_session()
    assert Access(TOKEN).has_session(cookie)
    assert 3 == len(cookie.split("."))
    assert cookie != Access(TOKEN).open_session()


def test_what_is_remembered_of_sign_outs_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only real sessions are remembered at all."""
    monkeypatch.setattr("tidepool.web.sign_in._MAX_SIGNED_OUT", 3)
    access = Access(TOKEN)
    cookies = [access.open_session() for _ in range(5)]
    for cookie in (*cookies, "9.forged.x", ""):
        access.end_session(cookie)
    assert [True, True, False, False, False] == [access.has_session(cookie) for cookie in cookies]


def test_a_look_at_a_bucket_takes_nothing() -> None:
    """A burst may be longer than a second."""
    rates = Rates(1, burst_s=3, clock=lambda: 100.0)
    assert all(rates.has_one("a") for _ in range(9))
    assert [True, True, True, False] == [rates.admit("a") for _ in range(4)]
    assert not rates.has_one("a")


PAGES = ("/", "/sign-in", "/openapi.json", "/static/page.css", "/nowhere")
CHANGING = (
    "/health",
    "/load-test",
    "/metrics",
    "/pool/stats",
    "/picture",
)  # figures, of which a digit more may be there a moment later


async def test_head_is_get_without_a_body(database: PoolConfig, redis_url: str) -> None:
    """The same status, type and length, on every path that answers GET, be it of the description or a page."""
    app = front_app(database.url, redis_url)
    described = {path for path, operations in app.openapi()["paths"].items() if "get" in operations} - {"/events"}
    assert len(described) > 15
    async with running(app) as http:
        for path in (*PAGES, *(re.sub(r"\{\w+\}", "77", path) for path in sorted(described))):
            head, got = await http.head(path), await http.get(path)
            assert (path, got.status_code, b"") == (path, head.status_code, head.content)
            assert got.headers["content-type"] == head.headers["content-type"]
            assert int(head.headers["content-length"]) > 0
            if path not in CHANGING:
                assert got.headers["content-length"] == head.headers["content-length"]


async def test_head_of_a_stream_ends(database: PoolConfig, redis_url: str) -> None:
    """There is no body to wait for; it is counted as HEAD, with its route."""
    async with a_front(database.url, redis_url) as http, asyncio.timeout(10):
        answer = await http.head("/events")
        assert (200, b"") == (answer.status_code, answer.content)
        assert (
            'http_request_method="HEAD",http_response_status_code="200",http_route="/events"'
            in (await http.get("/metrics")).text
        )


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":' * 50_000,
        b"[" * 500_000,
        b'{"quantity": ' + b"9" * 5000 + b"}",
        b'{"quantity": 1e999}',
        b'{"quantity": NaN}',
        b'{"quantity": -0.0}',
        b"\xff\xfe{}",
        b'{"username": "\\ud800"}',
    ],
)
async def test_odd_json_is_refused_in_words(database: PoolConfig, redis_url: str, body: bytes) -> None:
    """However deep, huge or broken it is."""
    async with a_front(database.url, redis_url) as http:
        answer = await http.post("/orders/", content=body, headers={"Content-Type": "application/json"})
    assert (422, "invalid") == (answer.status_code, answer.json()["code"])


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py",
        "/static/%2e%2e/app.py",
        "/static/..%2fapp.py",
        "/static/%2e%2e%2f%2e%2e%2f%2e%2e%2fsettings.py",
        "/static//etc/passwd",
        "/static/%00",
        "/static/..\\app.py",
    ],
)
async def test_no_path_leads_out_of_the_static_files(database: PoolConfig, redis_url: str, path: str) -> None:
    """Nor to an error of the front."""
    async with a_front(database.url, redis_url) as http:
        answer = await http.get(httpx.URL(f"http://localhost{path}"))
    assert answer.status_code in (400, 404)


@pytest.mark.parametrize("text", ["a\r\nSet-Cookie: x=y", "a\nb", "a%0d%0aSet-Cookie:%20x=y"])
async def test_no_text_of_a_caller_becomes_a_header(database: PoolConfig, redis_url: str, text: str) -> None:
    """Neither of a key, which is part of Location, nor of a path."""
    async with a_front(database.url, redis_url) as http:
        headers = {b"Idempotency-Key": text.encode(), b"Host": b"localhost"}
        answers = [await http.post("/users/", json=user_fields(), headers=headers)]
        answers.append(
            await http.get(httpx.URL("http://localhost/jobs/" + text.replace("\r\n", "%0d%0a").replace("\n", "%0a")))
        )
    for answer in answers:
        assert "set-cookie" not in answer.headers
        assert not any("\r" in value or "\n" in value for value in answer.headers.values())
