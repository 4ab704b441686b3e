"""`why` and `advise` as a person and a program see them."""

import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import pytest
from history import insert_ten_minutes

from settings import load
from tidepool.cli import Context
from tidepool.cli.operators import command_line
from tidepool.embedded import Urls
from tidepool.fleet.identity import Identity
from tidepool.health.journal import Journal
from tidepool.pool.config import PoolConfig
from tidepool.pool.side_connection import SideConnection
from worker import app

Run = Callable[..., Awaitable[tuple[int, str]]]


@pytest.fixture
def run(database: PoolConfig, capsys: pytest.CaptureFixture[str]) -> Run:
    """Give a function that runs a command and returns its status and what it printed."""
    settings = load({"DATABASE_URL": database.url, "REDIS_URL": "redis://nowhere"})

    async def call(*words: str) -> tuple[int, str]:
        arguments = command_line("tidepool").parser.parse_args(words)
        status = await arguments.command.run(
            arguments, Context(app, settings, Urls(database=database.url, redis="redis://nowhere"))
        )
        return status, capsys.readouterr().out

    return call


async def test_without_snapshots_both_say_so(run: Run) -> None:
    """They also say what to check."""
    words = "no live process wrote a snapshot of a pool in that time: is a worker running, and ENABLE_MONITORING on?\n"
    for command, status in (("why", 0), ("advise", 1)):
        assert (status, words) == await run(command)


async def test_a_dead_process_is_not_judged(run: Run, side: SideConnection) -> None:
    """One that has been silent for longer than four of its ticks, or has ended."""
    await insert_ten_minutes(side, datetime.now(UTC) - timedelta(minutes=12), waiting=15)
    assert (await run("why"))[1].startswith("no live process")


async def test_a_crowded_pool_is_explained(run: Run, side: SideConnection) -> None:
    """The verdict first, the figures with their limits below, and what happened."""
    await insert_ten_minutes(side, datetime.now(UTC) - timedelta(seconds=595), waiting=15)
    journal = Journal(Identity.of_this_process(), side, about={"versions": {}, "config": {}})
    journal.add_event("leak_suspected", {"task": "batch of create_user", "stack": ["deep", "inside"]})
    await journal.write()
    status, shown = await run("why")
    assert 0 == status
    assert shown.startswith("pool_too_small: callers wait for connections that the database could serve\n")
    assert "1 process with a pool of 2" in shown
    marked = [line.split() for line in shown.splitlines() if line.startswith(">")]
    assert [">", "pool_too_small", "time", "with", "a", "queue", "90.0%", "from", "1.0%"] in marked
    assert "leak_suspected" in shown
    assert "task batch of create_user" in shown
    assert "inside" not in shown
    _, document = await run("why", "--json")
    answer = json.loads(document)
    assert "pool_too_small" == answer["groups"][0]["verdict"]
    assert ["deep", "inside"] == answer["events"][0]["detail"]["stack"]


async def test_a_size_is_advised_with_what_to_expect(run: Run, side: SideConnection) -> None:
    """The setting to change, the way there, and the predictions around it."""
    await insert_ten_minutes(side, datetime.now(UTC) - timedelta(seconds=595), waiting=15)
    status, document = await run("advise", "--json")
    advice = json.loads(document)["groups"][0]["advice"]
    assert (0, 2, 4) == (status, advice["limit"], advice["next_step"])
    assert advice["low"] <= advice["size"] <= advice["high"]
    status, shown = await run("advise")
    assert shown.startswith(f"pool size: {advice['size']} instead of 2, by way of 4\n")
    assert f"{advice['size']} *" in shown


async def test_poor_figures_get_no_advice(run: Run, side: SideConnection) -> None:
    """Too little of the time, and status 1."""
    await insert_ten_minutes(side, datetime.now(UTC) - timedelta(seconds=595), waiting=15)
    since = ("--since", "80s")
    status, shown = await run("advise", *since)
    assert 1 == status
    assert shown.startswith("no advice: insufficient_data, there are too few snapshots to tell\n")
    assert (1, None) == (status, json.loads((await run("advise", *since, "--json"))[1])["groups"][0]["advice"])
