"""The operators' page as a person meets it: in a real browser, on a front that serves it."""

import json
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from browser import CHROMIUM, WHY_NONE, Front, open_browser
from commands import Service
from factories import user_fields
from history import insert_ten_minutes
from playwright.sync_api import Browser, Page, Route, expect
from redis import Redis

from producer.http import create_front
from settings import load
from tidepool.embedded import Urls
from tidepool.jobs.submission import Submission
from tidepool.pool.config import PoolConfig
from tidepool.pool.side_connection import SideConnection
from tidepool.web.services import Services

pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason=WHY_NONE)

REDIS_NUMBER = 14
FOCUSED = "(({ ariaLabel, name, textContent }) => ariaLabel || name || textContent)(document.activeElement)"
EVIL = "<script>window.pwned = 1</script><img src=x onerror='window.pwned = 1'>"
ADDED = """
    INSERT INTO job_results (job_id, function, status, result, reason, error, args, attempts, worker_id, enqueued_at,
                             started_at, finished_at, queue_us, pool_wait_us, db_us)
    VALUES ($1, $2, $3, NULL, $4, $5, $6, 5, 'worker', now(), now(), now() - interval '5 s', 1500000, 20000, 480000)
"""
EMPTIED = "TRUNCATE job_results, pool_snapshots, pool_events, pool_processes, db_snapshots, users CASCADE"


@pytest.fixture(scope="module")
def database(shared_database: PoolConfig) -> PoolConfig:
    """Give one database to all tests here."""
    return shared_database


@pytest.fixture(scope="module")
def redis_url(servers: Any) -> str:
    """Give one Redis database to all tests here, empty at first."""
    url = servers.redis_url(REDIS_NUMBER)
    with Redis.from_url(url) as redis:
        cast("Any", redis).flushdb()
    return url


@pytest.fixture(scope="module")
def running_front(database: PoolConfig, redis_url: str) -> Iterator[Front]:
    """Serve a front on them."""
    urls = Urls(database=database.url, redis=redis_url)
    app = create_front(load({"DATABASE_URL": urls.database, "REDIS_URL": urls.redis}), urls)
    with Front(app) as front:
        yield front


@pytest.fixture(scope="module")
def browser(running_front: Front) -> Iterator[Browser]:
    """Run one browser."""
    with open_browser() as browser:
        yield browser


@pytest.fixture
def front(running_front: Front) -> Front:
    """Give the front, its database and queue emptied."""
    services: Services = running_front.app.state.services

    async def empty() -> None:
        await services.redis.flushdb()
        async with services.pool.acquire() as connection:
            await connection.execute(EMPTIED)

    running_front.run(empty())
    running_front.forget()
    return running_front


class Errors(list[str]):
    """What the browser complained about."""


@pytest.fixture
def errors() -> Iterator[Errors]:
    """Collect complaints; a test that provokes some clears them."""
    found = Errors()
    yield found
    assert [] == found


@pytest.fixture
def page(front: Front, browser: Browser, errors: Errors) -> Iterator[Page]:
    """Give a tab, not yet on the page."""
    context = browser.new_context(base_url=front.url, viewport={"width": 1280, "height": 900})
    context.set_default_timeout(10_000)
    page = context.new_page()
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    yield page
    context.close()


def plant_outcome(front: Front, job_id: str, *, status: str = "failed", **columns: str) -> None:
    """Write a ledger row of a job that was not applied."""
    services: Services = front.app.state.services
    reason = columns.get("reason", "email_taken") if status == "rejected" else None
    name = columns.get("name", "Ada")
    content = json.dumps({"username": "ada", "email": "ada@example.org", "full_name": name})
    values = (job_id, columns.get("function", "create_user"), status, reason, columns.get("error", "boom"), content)

    async def write() -> None:
        async with services.pool.acquire() as connection:
            await connection.execute(ADDED, *values)

    front.run(write())


def plant_history(front: Front, *, waiting: float) -> None:
    """Write snapshots of a process that has used its pool of two for ten minutes and still does."""
    config = PoolConfig(url=front.app.state.services.urls.database, application_name="tests", schema="public")

    async def write() -> None:
        side = SideConnection(config, "stats")
        await insert_ten_minutes(side, datetime.now(UTC) - timedelta(seconds=595), waiting=waiting)
        await side.close()

    front.run(write())


def plant_counts(front: Front, function: str) -> None:
    """Let the newest snapshot tell of a job of *function*."""

    async def write() -> None:
        async with front.app.state.services.pool.acquire() as connection:
            await connection.execute(
                "UPDATE pool_snapshots SET functions = jsonb_build_object($1::text, array[1, 0, 0, 0])"
                " WHERE tick = (SELECT max(tick) FROM pool_snapshots)",
                function,
            )

    front.run(write())


def enqueue(front: Front, count: int) -> None:
    """Enqueue jobs that create users."""
    jobs = [Submission(f"job-{n}", "create_user", user_fields(f"user{n}")) for n in range(count)]
    front.run(front.app.state.services.client.enqueue_many(jobs))


def visit(page: Page, address: str = "/") -> None:
    """Open the page and wait until it lives."""
    page.goto(address)
    expect(page.locator("#link")).to_have_attribute("data-state", "live")


@pytest.fixture
def worker(front: Front, service: Service) -> subprocess.Popen[str]:
    """Run a worker."""
    return service.start_worker()


def test_an_empty_system_says_what_to_do_next(page: Page) -> None:
    """The commands, ready to be copied."""
    visit(page)
    card = page.get_by_role("region", name="Nothing is running yet")
    expect(card).to_contain_text("python -m worker work --workers 2")
    expect(card).to_contain_text("Enqueue some jobs")
    expect(page.locator("#functions")).to_contain_text("Not known: no worker process")


def test_a_running_load_is_shown(front: Front, worker: subprocess.Popen[str], page: Page) -> None:
    """By function, with the process that runs it, while the page is open."""
    visit(page)
    expect(page.locator("#tile-workers")).to_have_text("1")
    enqueue(front, 100)
    row = page.get_by_role("row", name="create_user")
    expect(row.get_by_role("cell").nth(1)).to_have_text("100")
    expect(page.locator("#processes tbody tr")).to_have_count(1)
    expect(page.locator("#budget-words")).to_contain_text("granted to 1 of them")
    expect(page.locator("#next")).to_be_hidden()


def test_a_failed_job_is_found_and_requeued(front: Front, page: Page) -> None:
    """After a question, and it is in the queue again."""
    plant_outcome(front, "lost-1", error="connection reset")
    plant_outcome(front, "other-2", error="boom")
    visit(page)
    expect(page.locator("#jobs tbody tr")).to_have_count(2)
    page.get_by_role("searchbox").fill("lost")
    page.get_by_role("button", name="Search").click()
    expect(page.locator("#jobs tbody tr")).to_have_count(1)
    page.get_by_role("button", name="Requeue lost-1").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Requeue lost-1").click()
    page.get_by_role("dialog").get_by_role("button", name="Requeue").click()
    expect(page.locator("#toast")).to_have_text("lost-1 is in the queue again.")
    assert 1 == front.run(front.app.state.services.client.queued())


def test_all_rejected_jobs_are_requeued(front: Front, page: Page) -> None:
    """Those of the filter, and no others."""
    for n in range(3):
        plant_outcome(front, f"taken-{n}", status="rejected", error="another user has this email")
    plant_outcome(front, "failed-1")
    visit(page)
    page.get_by_role("radio", name="Rejected").check()
    expect(page.locator("#jobs tbody tr")).to_have_count(3)
    expect(page.locator("#jobs")).to_contain_text("email taken")
    page.get_by_role("button", name="Requeue all of these").click()
    expect(page.get_by_role("dialog")).to_contain_text("Run all rejected jobs again")
    page.get_by_role("dialog").get_by_role("button", name="Requeue all").click()
    expect(page.locator("#toast")).to_have_text("3 jobs are in the queue again.")
    assert 3 == front.run(front.app.state.services.client.queued())


def test_more_is_the_next_page_of_what_is_listed(front: Front, page: Page) -> None:
    """Once, however often it is pressed; an answer that comes when the filter has changed is dropped."""
    for n in range(12):
        plant_outcome(front, f"failed-{n}")
        plant_outcome(front, f"taken-{n}", status="rejected")
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    def press_more() -> None:
        with page.expect_request("**/jobs?*cursor=*"):
            page.get_by_role("button", name="More").click()

    def answer(route: Route) -> None:
        with page.expect_response("**/jobs?*cursor=*"):
            route.continue_()

    page.route("**/jobs?*cursor=*", hold)
    visit(page)
    press_more()
    page.get_by_role("radio", name="Rejected").check()
    expect(page.locator("#jobs-words")).to_have_text("10 newest rejected jobs")
    answer(held[0])
    press_more()
    press_more()
    answer(held[1])
    answer(held[2])
    expect(page.locator("#jobs-words")).to_have_text("12 rejected jobs")
    assert {f"taken-{n}" for n in range(12)} == set(page.locator("#jobs .id").all_inner_texts())
    expect(page.locator("#jobs tbody tr")).to_have_count(12)


def test_a_jobs_own_view_asks_once_a_second(front: Front, page: Page) -> None:
    """However often one presses Abort, and no more when it has been left."""
    enqueue(front, 1)
    page.clock.install()
    page.clock.pause_at(datetime.now(UTC) + timedelta(hours=1))  # first: the page asks for nothing by itself
    visit(page, "/#job=job-0")
    drawn = page.locator("#job-body > :first-child")
    for _ in range(3):
        drawn.evaluate("element => element.id = 'drawn-before'")
        page.get_by_role("button", name="Abort").click()
        page.get_by_role("dialog").get_by_role("button", name="Abort").click()
        # not its response alone: the page sets its timer when it draws the job
        expect(page.locator("#drawn-before")).to_have_count(0)

    def asked_within(milliseconds: int) -> list[str]:
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url.removeprefix(front.url)))
        page.clock.run_for(milliseconds)
        page.evaluate("fetch('/health/live')")  # by its answer all requests before it are known
        return [path for path in asked if path.startswith("/jobs/")]

    assert ["/jobs/job-0"] == asked_within(1000)
    page.get_by_role("link", name="← Overview").click()
    expect(page.get_by_role("heading", name="Throughput")).to_be_visible()
    assert [] == asked_within(3000)


def test_a_jobs_own_view_splits_its_time(front: Front, page: Page) -> None:
    """The queue, the pool and the database; and the way back."""
    plant_outcome(front, "slow/1", error="too late")
    visit(page)
    page.get_by_role("link", name="slow/1").click()
    job = page.get_by_role("region", name="slow/1")
    expect(job).to_contain_text("■ failed")
    expect(job.get_by_role("img")).to_have_attribute(
        "aria-label", "queue 1.5 s, batch 0 ms, pool 20 ms, database 480 ms"
    )
    expect(job).to_contain_text("too late")
    page.get_by_role("link", name="← Overview").click()
    expect(page.get_by_role("heading", name="Throughput")).to_be_visible()


def test_a_saturated_pool_is_explained(front: Front, page: Page) -> None:
    """The verdict, the size advised, in words, and the figures behind them."""
    plant_history(front, waiting=15)
    visit(page)
    verdict = page.get_by_role("article")
    expect(verdict.get_by_role("heading")).to_contain_text("The pool is too small")
    expect(verdict).to_contain_text("Callers wait for connections that the database could serve.")
    expect(verdict).to_contain_text("Set the max size of the pool to")
    verdict.locator("summary").click()
    expect(verdict).to_contain_text("time with a queue: 90 %")
    expect(page.locator("#processes tbody tr")).to_contain_text("/ 2")


def test_the_hour_and_the_day_come_from_the_snapshots(front: Front, page: Page) -> None:
    """A choice of the time shown, that stays alive."""
    plant_history(front, waiting=0)
    visit(page)
    for name, window in (("Hour", "1h"), ("Day", "1d")):
        with page.expect_request(lambda request, window=window: request.url.endswith(f"/events?window={window}")):
            page.get_by_role("radio", name=name).check()
        expect(page.locator("#chart-in-use canvas")).to_be_visible()
        expect(page.locator("#link")).to_have_attribute("data-state", "live")


def test_what_comes_from_a_job_stays_text(front: Front, page: Page) -> None:
    """Its id, function, error and arguments, as a user's or a product's name, in every place where they are shown."""
    plant_outcome(front, EVIL, function=EVIL, error=EVIL, name=f"name: {EVIL}")
    plant_outcome(front, "taken", function=EVIL, status="rejected", reason=EVIL, error=EVIL)
    plant_history(front, waiting=0)
    plant_counts(front, EVIL)
    visit(page)
    expect(page.locator("#functions")).to_contain_text("<script>window.pwned = 1</script>")
    expect(page.locator("#jobs")).to_contain_text(EVIL)
    page.get_by_role("link", name=EVIL).click()
    expect(page.get_by_role("heading", name=EVIL)).to_be_visible()
    expect(page.locator("#job-body")).to_contain_text(EVIL)
    expect(page.locator("#job-body")).to_contain_text(f"name: {EVIL}")
    assert page.evaluate("window.pwned === undefined")


def test_it_is_usable_on_a_small_phone(front: Front, page: Page) -> None:
    """At 360 pixels nothing has to be scrolled sideways."""
    plant_history(front, waiting=15)
    plant_outcome(front, "a-job-with-a-long-name-" + "x" * 200, error="e" * 300)
    page.set_viewport_size({"width": 360, "height": 740})
    visit(page)
    expect(page.locator("#jobs tbody tr")).to_have_count(1)
    expect(page.locator("#chart-in-use canvas")).to_be_visible()
    assert 0 == page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    functions = page.locator("#functions")
    assert functions.evaluate("(table) => table.offsetWidth <= table.parentElement.clientWidth")
    expect(page.get_by_role("button", name="Requeue a-job-with")).to_be_visible()


def test_the_keyboard_reaches_everything(front: Front, page: Page) -> None:
    """The way past the header first, the window, the filter, a job's button; and a question that Escape leaves."""
    plant_outcome(front, "lost-1")
    visit(page)
    expect(page.locator("#jobs tbody tr")).to_have_count(1)
    reached: list[str] = []
    for _ in range(20):
        page.keyboard.press("Tab")
        reached.append(page.evaluate(FOCUSED))
        if reached[-1] == "Requeue lost-1":
            break
    assert "Skip to content" == reached[0]
    assert {"window", "status", "since", "function", "search", "lost-1", "Requeue lost-1"} <= set(reached)
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()


def test_with_a_token_one_signs_in_first(database: PoolConfig, redis_url: str, page: Page, errors: Errors) -> None:
    """Then the page works as without a token. After signing out the old cookie is not accepted any more."""
    token = "a-token-of-some-length"
    urls = Urls(database=database.url, redis=redis_url)
    settings = load({"DATABASE_URL": urls.database, "REDIS_URL": urls.redis, "FRONT_TOKEN": token})
    with Front(create_front(settings, urls)) as guarded:
        page.goto(guarded.url)
        page.locator("input[name=token]").fill(token)
        page.keyboard.press("Enter")
        expect(page.locator("#link")).to_have_attribute("data-state", "live")
        cookies = page.context.cookies()
        page.get_by_role("button", name="Sign out").click()
        expect(page.locator("input[name=token]")).to_be_visible()
        page.context.add_cookies(cookies)  # pyright: ignore[reportArgumentType]  (as somebody who has copied them)
        page.goto(guarded.url)
        expect(page.locator("input[name=token]")).to_be_visible()
        page.goto("about:blank")
    errors.clear()  # an icon that the browser asks for by itself, before it may have anything


def test_a_lost_connection_is_said_and_comes_back(front: Front, page: Page, errors: Errors) -> None:
    """Without anybody loading the page anew."""
    visit(page)
    page.route("**/events*", lambda route: route.abort())
    front.forget()
    expect(page.get_by_role("alert")).to_contain_text("The connection to the service is lost.")
    page.unroute("**/events*")
    expect(page.get_by_role("alert")).to_be_hidden()
    expect(page.locator("#link")).to_have_attribute("data-state", "live")
    errors.clear()
