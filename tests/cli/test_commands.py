"""The commands as a new user meets them: help, wrong words, wrong settings, servers that are away."""

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest
from commands import Service, stop, until
from own_servers import a_standby
from redis import Redis

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "words",
    [
        ("producer",),
        ("producer", "results"),
        ("producer", "requeue"),
        ("producer", "serve"),
        ("worker",),
        ("worker", "snapshots"),
        ("worker", "pool"),
        ("worker", "why"),
        ("worker", "advise"),
        ("worker", "urls"),
        ("worker", "dead-letters"),
        ("lab", "drill"),
        ("lab", "tune"),
        ("lab", "pool-test"),
        ("lab", "load-test"),
        ("lab", "layouts"),
    ],
)
def test_every_command_has_help(service: Service, words: tuple[str, ...]) -> None:
    """`--help` explains the command and succeeds."""
    ended = service.run(*words, "--help")

    assert (0, "") == (ended.status, ended.stderr)
    assert "usage: python -m" in ended.stdout


@pytest.mark.parametrize("package", ["tidepool", "worker", "producer", "lab"])
@pytest.mark.parametrize("option", [[], ["-m"]], ids=["the directory", "the module"])
def test_a_checkout_runs_the_command_of_each_package(package: str, option: list[str]) -> None:
    """Also as a directory, as `uv run tidepool` does there: its files do not hide packages of the same names."""
    command = [sys.executable, *option, package, "--help"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)

    assert (0, "") == (ended.returncode, ended.stderr)
    assert re.match("usage: (python -m )?" + package, ended.stdout)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("producer",), "one of the arguments --jobs --file is required"),
        (("producer", "--jobs", "0"), "not a whole number of 1 or more"),
        (("producer", "--jobs", "5", "--mix", "dance=1"), "dance"),
        (("producer", "--file", "x", "--seed", "1"), "are for generated workloads, not for --file"),
        (
            (
                "producer",
                "--file",
                "no/such/file",
            ),
            "no/such/file: No such file",
        ),
        (("producer", "results", "--since", "soon"), "is not a duration"),
        (("producer", "serve", "--port", "65536"), "'65536' is not a whole number from 1 to 65535"),
        (("producer", "serve", "--host", "0.0.0.0"), "set FRONT_TOKEN"),
        (("worker", "dance"), "invalid choice"),
        (("worker", "pool", "--watch"), "--watch needs a terminal"),
        (("producer", "results", "--since", "800000d"), "'800000d' is longer than 36500d"),
        (("worker", "snapshots", "--since", "99999999999d"), "is longer than 36500d"),
        (("producer", "results", os.fsdecode(b"\xff")), "error: PostgreSQL cannot store such a value"),
        (("producer", "requeue", "--function", os.fsdecode(b"\xff")), "error: PostgreSQL cannot store such a value"),
        (("worker", "snapshots", "--worker", os.fsdecode(b"\xff")), "error: PostgreSQL cannot store such a value"),
        (("worker", "why", "--since", "soon"), "'soon' is not a duration such as 90s"),
    ],
)
def test_wrong_words_are_one_clear_line_and_status_2(service: Service, words: tuple[str, ...], said: str) -> None:
    """A wrong call is reported on standard error, without a traceback."""
    ended = service.run(*words)

    assert (2, "") == (ended.status, ended.stdout)
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("words", [("producer", "--jobs", "1"), ("arq", "worker.WorkerSettings")])
def test_wrong_settings_are_a_line_each(service: Service, words: tuple[str, ...]) -> None:
    """Every wrong variable is named before anything starts."""
    ended = service.run(*words, POOL_MAX_SIZE="0", STATS_INTERVAL="often")

    assert 2 == ended.status
    assert ["POOL_MAX_SIZE:", "STATS_INTERVAL:"] == [line.split(" ")[0] for line in ended.stderr.splitlines()]


def test_a_pool_share_for_an_unknown_job_is_reported_at_once(service: Service) -> None:
    """The settings cannot check it, because only the worker knows its functions."""
    ended = service.run("arq", "worker.WorkerSettings", POOL_SHARES="dance=0.5")

    assert 2 == ended.status
    assert "error: POOL_SHARES: no function is called dance" == ended.stderr.splitlines()[-1]


def test_a_postgresql_that_is_away_is_named_without_its_password(service: Service) -> None:
    """The command waits, says once what for, and gives up with status 2."""
    url = "postgresql://someone:geheim@127.0.0.1:1/tidepool"

    ended = service.run("worker", "snapshots", DATABASE_URL=url, CONNECT_TIMEOUT="0.3")

    assert (2, "") == (ended.status, ended.stdout)
    assert "postgresql://someone@127.0.0.1:1/tidepool" in ended.stderr
    assert "geheim" not in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.fixture
def room_to_measure(servers: Any) -> None:
    """Empty the Redis database that measuring takes: what a test has left there is nobody's."""
    with Redis.from_url(servers.redis_url(15)) as redis:
        cast("Any", redis).flushdb()


@pytest.mark.usefixtures("room_to_measure")
@pytest.mark.parametrize("words", [("bench", "--parts", "acquire"), ("load-test", "--users", "1")])
def test_measuring_on_a_postgresql_that_is_away_is_one_line(service: Service, words: tuple[str, ...]) -> None:
    """They connect by themselves, and printed the driver's error with a traceback before."""
    ended = service.run("lab", *words, DATABASE_URL="postgresql://someone:geheim@127.0.0.1:1/tidepool")

    assert (2, "") == (ended.status, ended.stdout)
    assert "PostgreSQL at postgresql://someone@127.0.0.1:1/tidepool: " in ended.stderr
    assert 1 == len(ended.stderr.splitlines())


@pytest.mark.usefixtures("room_to_measure")
async def test_measuring_without_the_right_to_make_a_database_is_one_line(service: Service, connection: Any) -> None:
    """The benchmark makes one of its own."""
    url = service.environment["DATABASE_URL"].replace("postgres@", "no_builder@")
    await connection.execute("CREATE ROLE no_builder LOGIN")
    try:
        ended = await asyncio.to_thread(service.run, "lab", "bench", "--parts", "acquire", DATABASE_URL=url)
    finally:
        await connection.execute("DROP ROLE no_builder")

    assert (2, "") == (ended.status, ended.stdout)
    assert "permission denied to create database" in ended.stderr
    assert 1 == len(ended.stderr.splitlines())


def test_a_redis_that_is_away_is_named_without_its_password(service: Service) -> None:
    """The same for the queue."""
    ended = service.run("producer", "--jobs", "1", REDIS_URL="redis://:geheim@127.0.0.1:1/0", CONNECT_TIMEOUT="0.3")

    assert (2, "") == (ended.status, ended.stdout)
    assert "redis://127.0.0.1:1/0" in ended.stderr
    assert "geheim" not in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_wrong_password_is_reported_at_once(service: Service) -> None:
    """A database that does not exist is no outage: waiting would not help, and the worker says so."""
    url = service.environment["DATABASE_URL"].replace("/t", "/no_such_", 1)

    ended = service.run("arq", "worker.WorkerSettings", DATABASE_URL=url)

    assert 2 == ended.status
    assert "does not exist" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_standby_ends_what_would_write_and_answers_what_reads(service: Service, servers: Any) -> None:
    """With status 2 and a line that names it; where nothing is migrated only the worker needs a primary."""
    with a_standby(servers, service.environment["DATABASE_URL"]) as url:
        service.environment |= {"DATABASE_URL": url, "MIGRATE_ON_START": "false"}
        refused = service.run("arq", "worker.WorkerSettings")
        ran = service.run("producer", "--jobs", "1")
        read = service.run("producer", "results", "--json")

    assert 2 == refused.status
    (line,) = [line for line in refused.stderr.splitlines() if not line.startswith("{")]
    assert line.startswith("error: PostgreSQL at postgresql://")
    assert line.endswith(": it is a standby, which is read-only: name the primary")
    assert (0, "", 0, []) == (ran.status, ran.stderr, read.status, read.document)


@pytest.mark.slow
def test_lists_are_a_table_for_people_and_an_array_for_programs(service: Service) -> None:
    """`results` prints rows either way, and an empty list says so."""
    assert "no such outcomes\n" == service.run("producer", "results").stdout
    assert [] == service.run("producer", "results", "--json").document
    service.run("producer", "--jobs", "3", "--workers", "1", "--mix", "create_user=1")

    table = service.run("producer", "results").stdout

    assert 4 == len(table.splitlines())
    assert 3 == table.count("create_user")
    assert {"database", "redis"} == service.run("worker", "urls", "--json").document.keys()
    assert {"applied": []} == service.run("worker", "migrate", "--json").document


@pytest.mark.slow
def test_the_slowest_jobs_are_shown_part_by_part(service: Service) -> None:
    """A summary by function above the rows; for programs the same whole rows as without the word."""
    assert "no such outcomes\n" == service.run("producer", "results", "--slowest").stdout
    service.run("producer", "--jobs", "3", "--workers", "1", "--mix", "create_user=1")

    summary, table = service.run("producer", "results", "--slowest", "--limit", "2").stdout.split("\n\n")
    rows = service.run("producer", "results", "--slowest", "--json").document

    assert ["queue", "batch", "pool", "database"] == [line.split()[1] for line in summary.splitlines()[3:]]
    assert [row["job_id"] for row in rows[:2]] == [line.split()[-1] for line in table.splitlines()[2:]]
    assert rows[0].keys() == service.run("producer", "results", "--json").document[0].keys()


async def test_a_query_that_takes_too_long_is_one_clear_line(service: Service, connection: Any) -> None:
    """The ledger may be larger than what one look can read, or locked by somebody's work on it."""
    async with connection.transaction():
        await connection.execute("LOCK TABLE job_results")
        ended = await asyncio.to_thread(
            service.run, "producer", "results", COMMAND_TIMEOUT="0.5", MIGRATE_ON_START="false"
        )

    assert (2, "") == (ended.status, ended.stdout)
    assert "error: PostgreSQL at postgresql://" in ended.stderr
    assert ": a query took longer than COMMAND_TIMEOUT" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.slow
async def test_the_pools_are_shown_by_process_and_minute(service: Service, rows: Any) -> None:
    """As soon as there is a snapshot; before, a line says what to look for."""
    assert "no live process wrote a snapshot of a pool in that time" in service.run("worker", "pool").stdout
    worker = service.start_worker()
    await until(lambda: rows("SELECT 1 FROM pool_snapshots"))
    (worker_id,) = {row["worker_id"] for row in await rows("SELECT worker_id FROM pool_snapshots")}

    shown, document = service.run("worker", "pool").stdout, service.run("worker", "pool", "--json").document
    stop(worker)

    assert worker_id in shown
    assert "The fleet, minute by minute" in shown
    assert [worker_id] == [process["worker_id"] for process in document["processes"]]
    assert 1 <= len(document["minutes"]) <= 2
