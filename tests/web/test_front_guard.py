"""The front's guard: who gets through, who is turned away, and what every answer tells a browser."""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from commands import Service
from factories import user_fields
from front import BEARER, TOKEN, a_front

from tidepool.bounded_http.listening import is_loopback
from tidepool.pool.config import PoolConfig
from tidepool.web.callers import Rates
from tidepool.web.guard import MAX_BODY_BYTES
from tidepool.web.sign_in import Access

pytestmark = pytest.mark.usefixtures("shared_database")


@pytest.fixture
async def locked(database: PoolConfig, redis_url: str) -> AsyncIterator[httpx.AsyncClient]:
    """Give a client of a front with a token."""
    async with a_front(database.url, redis_url, FRONT_TOKEN=TOKEN) as http:
        yield http


async def post(http: httpx.AsyncClient, **headers: str) -> tuple[int, str | None]:
    """Create a user; returns the status and the problem's code."""
    answer = await http.post("/users/", json=user_fields(), headers=headers)
    return answer.status_code, answer.json().get("code")


async def test_every_answer_says_what_a_browser_may_do_with_it(front: httpx.AsyncClient) -> None:
    """A page, data, a problem of a room and one of the guard itself."""
    answers = [
        await front.get("/sign-in"),
        await front.get("/openapi.json"),
        await front.get("/nowhere"),
        await front.get("/openapi.json", headers={"Host": "evil.example"}),
    ]
    assert [200, 200, 404, 421] == [answer.status_code for answer in answers]
    for answer in answers:
        policy = "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
        assert policy == answer.headers["content-security-policy"]
        assert "nosniff" == answer.headers["x-content-type-options"]
        assert "same-origin" == answer.headers["referrer-policy"]
    assert [None, "no-store", "no-store", "no-store"] == [answer.headers.get("cache-control") for answer in answers]


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "127.0.0.1", "127.3.2.1:80", "[::1]:8000"])
async def test_a_front_without_a_token_answers_to_this_machines_names(front: httpx.AsyncClient, host: str) -> None:
    """Those of loopback."""
    assert (202, None) == await post(front, Host=host)


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "10.0.0.1:8000", "", "[::1", "0.0.0.0"])
async def test_a_front_without_a_token_answers_to_no_other_name(front: httpx.AsyncClient, host: str) -> None:
    """A page of evil.example could point that name here, and would be of one origin with us (DNS rebinding)."""
    assert (421, "misdirected") == await post(front, Host=host)


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
        {"Origin": "http://localhost"},
        {"Sec-Fetch-Site": "same-origin", "Origin": "http://localhost"},
    ],
)
async def test_changes_are_taken_from_our_own_page(front: httpx.AsyncClient, headers: dict[str, str]) -> None:
    """They are also taken from programs such as curl, which send neither header."""
    assert (202, None) == await post(front, **headers)


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Origin": "http://localhost"},
        {"Origin": "http://evil.example"},
        {"Origin": "http://localhost:9"},
        {"Origin": "null"},
        {"Origin": ""},
    ],
)
async def test_changes_are_not_taken_from_another_site(front: httpx.AsyncClient, headers: dict[str, str]) -> None:
    """Whatever else is right about them."""
    assert (403, "cross_site") == await post(front, **headers)


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "", "json", "text/x+json"])
async def test_what_a_form_can_send_is_no_command(front: httpx.AsyncClient, content_type: str) -> None:
    """A form of another site needs no permission to send these."""
    answer = await front.post("/users/", content=b"{}", headers={"Content-Type": content_type})
    assert (415, "not_json") == (answer.status_code, answer.json()["code"])


@pytest.mark.parametrize("method", ["DELETE", "PATCH", "OPTIONS", "TRACE", "LINK"])
async def test_other_methods_are_not_allowed(front: httpx.AsyncClient, method: str) -> None:
    """No room would see them."""
    answer = await front.request(method, "/users/")
    assert (405, "GET, HEAD, POST, PUT") == (answer.status_code, answer.headers["allow"])


async def test_a_body_that_is_too_large_is_refused(front: httpx.AsyncClient) -> None:
    """As soon as that is announced, or as it shows; what fits is valid or not, but read."""

    async def pieces(count: int) -> AsyncIterator[bytes]:
        for _ in range(count):
            yield b" " * 65_536

    headers = {"Content-Type": "application/json"}
    announced = await front.post("/users/", content=b" " * (MAX_BODY_BYTES + 1), headers=headers)
    streamed = await front.post("/users/", content=pieces(17), headers=headers)
    fitting = await front.post("/users/", content=b" " * MAX_BODY_BYTES, headers=headers)

    assert [413, 413, 422] == [answer.status_code for answer in (announced, streamed, fitting)]
    assert "application/problem+json" == streamed.headers["content-type"]


async def test_the_largest_body_makes_a_job_that_is_not_too_large(front: httpx.AsyncClient) -> None:
    """Its batch would be refused whole, with the jobs of other callers."""
    fields = {"name": "a", "price": "1.00", "category": "c", "description": "\x01" * 174_000}
    answer = await front.post("/products/", json=fields)
    assert 1_044_000 < len(answer.request.content) <= MAX_BODY_BYTES
    assert 202 == answer.status_code


async def test_a_token_is_asked_of_everybody(locked: httpx.AsyncClient) -> None:
    """Only requests for the front's health need none. With the token any Host header is accepted."""
    assert (401, "unauthorized") == await post(locked)
    assert (401, "unauthorized") == await post(locked, Authorization="Bearer sesame-open-sesamf")
    assert (401, "unauthorized") == await post(locked, Authorization=f"Basic {TOKEN}")
    assert (202, None) == await post(locked, Host="tidepool.example", **BEARER)
    assert 401 == (await locked.get("/openapi.json")).status_code
    assert 401 != (await locked.get("/health/live")).status_code
    assert "Bearer" == (await locked.get("/openapi.json")).headers["www-authenticate"]


async def test_a_browser_signs_in(locked: httpx.AsyncClient) -> None:
    """It is sent to a page, which takes the token and nothing else; then its cookie opens the front."""
    html = {"Accept": "text/html,*/*"}
    sent = await locked.get("/", headers=html)
    assert (303, "/sign-in") == (sent.status_code, sent.headers["location"])
    assert 'type="password"' in (await locked.get("/sign-in", headers=html)).text

    wrong = await locked.post("/sign-in", data={"token": "sesame"})
    assert 401 == wrong.status_code
    assert "That is not the token" in wrong.text
    assert 401 == (await locked.get("/openapi.json")).status_code

    right = await locked.post("/sign-in", data={"token": TOKEN})
    assert (303, "/") == (right.status_code, right.headers["location"])
    assert re.search(r"^tidepool=\S+; HttpOnly; Max-Age=43200; Path=/; SameSite=strict$", right.headers["set-cookie"])
    assert TOKEN not in right.headers["set-cookie"]
    assert 200 == (await locked.get("/openapi.json")).status_code
    assert (202, None) == await post(locked)


async def test_another_site_cannot_sign_a_browser_in(locked: httpx.AsyncClient) -> None:
    """Not even with the right token."""
    answer = await locked.post("/sign-in", data={"token": TOKEN}, headers={"Origin": "http://evil.example"})
    assert 403 == answer.status_code


async def test_without_a_token_there_is_nothing_to_sign_in_to(front: httpx.AsyncClient) -> None:
    """The page sends on to the front."""
    answer = await front.post("/sign-in", data={"token": ""})
    assert (303, None) == (answer.status_code, answer.headers.get("set-cookie"))


async def test_an_address_that_asks_too_often_is_put_off(database: PoolConfig, redis_url: str) -> None:
    """429, and when to come back."""
    async with a_front(database.url, redis_url, FRONT_RATE_LIMIT="2") as http:
        answers = await asyncio.gather(*(http.get("/openapi.json") for _ in range(9)))
    put_off = [answer for answer in answers if answer.status_code == 429]
    assert 2 <= 9 - len(put_off) < 9
    assert ("1", "too_many") == (put_off[0].headers["retry-after"], put_off[0].json()["code"])


def test_each_address_has_a_bucket_of_a_second() -> None:
    """It fills at the rate, and is never fuller than full."""
    now_s = 100.0
    rates = Rates(4, clock=lambda: now_s)

    assert [True, True, True, True, False] == [rates.admit("a") for _ in range(5)]
    assert rates.admit("b")
    now_s += 0.5
    assert [True, True, False] == [rates.admit("a") for _ in range(3)]
    now_s += 60
    assert [True, True, True, True, False] == [rates.admit("a") for _ in range(5)]


def test_the_buckets_are_bounded() -> None:
    """The addresses of a whole network are forgotten as they come."""
    rates = Rates(1, clock=lambda: 0.0)
    assert all(rates.admit(str(number)) for number in range(10_100))
    assert 10_000 == len(rates._full_at_s)
    assert not rates.admit("10099")
    assert rates.admit("0")


def test_a_session_ends() -> None:
    """After half a day, with the token, and where somebody changes its time."""
    now_s = 1000.0
    access = Access(TOKEN, clock=lambda: now_s)
    cookie = access.open_session()

    assert access.has_session(cookie)
    assert not Access(f"{TOKEN}!", clock=lambda: now_s).has_session(cookie)
    for wrong in ("", ".", "x", cookie[:-1], f"9{cookie}", cookie.partition(".")[0], "ä.ä"):
        assert not access.has_session(wrong)
    now_s += 12 * 3600
    assert not access.has_session(cookie)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("", False),
        ("example.org", False),
        ("localhost:80", True),
        ("[::1]:80", True),
        ("127.0.0.1:80", True),
        ("[::1", False),
        ("localhost.org:80", False),
    ],
)
def test_loopback(host: str, expected: bool) -> None:  # noqa: FBT001
    """Addresses of this machine only."""
    assert expected == is_loopback(host)


def test_serving_others_needs_a_token(database: PoolConfig, redis_url: str) -> None:
    """Exit status 2 and one line."""
    environment: dict[str, Any] = {"PATH": "/usr/bin:/bin", "DATABASE_URL": database.url, "REDIS_URL": redis_url}
    ended = Service(environment).run("producer", "serve", "--host", "0.0.0.0")
    assert (2, "") == (ended.status, ended.stdout)
    assert ["error: --host 0.0.0.0 is not a loopback address: set FRONT_TOKEN"] == ended.stderr.splitlines()
