"""`status`, `results` and `requeue` for an adopted application, with a database and without."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from arq.connections import ArqRedis
from commands import until

from tidepool.adopting import settings_class_of
from tidepool.app import App
from tidepool.cli import Context
from tidepool.cli.operators import command_line

Run = Callable[..., Awaitable[tuple[int, str, str]]]


@pytest.fixture
def run(settings: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> Run:
    """Give a function that runs a command of the application; returns its status and what it printed."""

    async def call(*words: str) -> tuple[int, str, str]:
        kind = settings_class_of(settings)
        assert kind is not None
        loaded = kind.load()
        arguments = command_line("tidepool").parser.parse_args(words)
        status = await arguments.command.run(arguments, Context(App(settings=kind), loaded, loaded.urls))
        return status, *capsys.readouterr()

    return call


@pytest.fixture
async def failed(run: Run, redis: ArqRedis, work: Callable[[], None], connection: Any) -> None:
    """Run a job that fails, and one that succeeds, under a worker that goes on."""
    await redis.enqueue_job("send", "bad", _job_id="bad")
    await redis.enqueue_job("send", "ada", _job_id="good")
    work()

    async def both() -> bool:
        return 2 == await connection.fetchval("SELECT count(*) FROM job_results")

    await until(both)


@pytest.mark.usefixtures("failed")
async def test_the_status_has_the_queue_the_idle_workers_and_the_last_outcomes(run: Run, redis: ArqRedis) -> None:
    """As text, and as a document."""
    await redis.enqueue_job("send", "ada", _job_id="later", _defer_by=3600)

    async def known() -> Any:
        document = json.loads((await run("status", "--json"))[1])
        return document if document["workers"] else None

    document = await until(known)
    queue = {"waiting": 1, "running": 0, "oldest_s": None, "dead_letters": 0}
    assert queue == document["queue"]
    assert [(0, [])] == [(worker["running"], worker["job_ids"]) for worker in document["workers"]]
    assert [{"function": "send", "applied": 1, "rejected": 0, "failed": 1}] == document["outcomes"]
    _, text, _ = await run("status")
    assert text.startswith("1 waiting, 0 running, no job is due; dead letters: 0\n")


@pytest.mark.usefixtures("failed")
async def test_one_job_is_shown_wherever_it_is(run: Run, redis: ArqRedis) -> None:
    """In the queue, also if its id has an outcome; with its outcome; or nowhere, which is status 1."""
    await redis.enqueue_job("send", "ada", _job_id="later", _defer_by=3600)
    await redis.delete("arq:result:good")
    await redis.enqueue_job("send", "ada", _job_id="good", _defer_by=3600)
    for job_id, state in (("later", "deferred"), ("good", "deferred"), ("bad", "failed")):
        status, out, _ = await run("status", job_id, "--json")
        assert (0, job_id, state) == (status, json.loads(out)["job_id"], json.loads(out)["status"])
    assert (1, "", "no job has the id nobody\n") == await run("status", "nobody")


async def test_running_jobs_are_listed_without_a_database(
    run: Run, redis: ArqRedis, work: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By worker; outcomes are not known then."""
    monkeypatch.delenv("TIDEPOOL_DATABASE_URL")
    await redis.enqueue_job("send", "slow", _job_id="slow")
    work()

    async def runs() -> Any:
        document = json.loads((await run("status", "--json"))[1])
        return document if document["queue"]["running"] else None

    document = await until(runs)
    assert [(1, ["slow"])] == [(worker["running"], worker["job_ids"]) for worker in document["workers"]]
    assert document["outcomes"] is None
    assert "in_progress" == json.loads((await run("status", "slow", "--json"))[1])["status"]


@pytest.mark.usefixtures("failed")
async def test_a_requeue_says_how_many_jobs_it_leaves_out(run: Run) -> None:
    """Their arguments are not kept."""
    left_out = "left out 1 of plain functions, whose arguments are not kept: enqueue them anew\n"
    assert (0, "requeued 0\n", left_out) == await run("requeue")
    status, out, _ = await run("requeue", "--json")
    assert (0, {"requeued": 0, "not_requeued": [], "left_out": 1}) == (status, json.loads(out))


@pytest.mark.usefixtures("failed")
async def test_the_slowest_plain_jobs_are_those_that_ran_longest(run: Run, connection: Any) -> None:
    """Their time went into the queue and the function; they have no batch."""
    await connection.execute(
        "UPDATE job_results SET queue_us = 0, started_at = finished_at - interval '7 s' WHERE job_id = 'good'"
    )
    _, out, _ = await run("results", "--slowest", "--json")
    assert ("good", 7_000_000) == (json.loads(out)[0]["job_id"], json.loads(out)[0]["run_us"])
    _, text, _ = await run("results", "--slowest")
    assert [["send", "queue"], ["send", "run"]] == [
        line.split()[:2] for line in text.splitlines() if line.startswith("send")
    ]
