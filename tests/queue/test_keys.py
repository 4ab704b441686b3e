"""The names of the keys in Redis: part of the wire format, on which arq's clients and running fleets rely."""

import re
from pathlib import Path

import pytest
from redis.asyncio import Redis

from tidepool.queue import scripts, wire

ROOT = Path(__file__).parents[2]


def test_the_keys_of_a_job_are_arqs() -> None:
    """One more is our own."""
    assert ["arq:job:", "arq:in-progress:", "arq:retry:", "arq:cause:", "arq:result:"] == [
        *(wire.JOB, wire.IN_PROGRESS, wire.RETRY, wire.CAUSE, wire.RESULT)
    ]
    assert ("arq:abort", "tidepool:receipt:") == (wire.ABORTS, wire.RECEIPT)


def test_the_keys_of_a_queue_begin_with_its_name() -> None:
    """So do those of two services that share a Redis not meet."""
    queue = wire.QueueKeys("q")
    assert ("q", "q:owners", "q:lapses", "q:suspects", "q:held:") == (
        *(queue.queue, queue.owners, queue.lapses, queue.suspects, queue.held_prefix),
    )
    assert ("q:held:me", "q:health-check:w1") == (queue.held("me"), queue.health_check("w1"))


def test_the_keys_of_a_fleet_begin_with_its_database() -> None:
    """Without a password."""
    fleet = "tidepool:budget:db"
    assert [fleet, f"{fleet}:capacity", f"{fleet}:restless"] == [key.format(database="db") for key in wire.FLEET]


@pytest.mark.parametrize("package", ["tidepool", "worker", "producer", "lab"])
def test_no_other_module_spells_a_key(package: str) -> None:
    """Code, that is: docstrings may explain them. Scripts get the prefixes as local variables."""
    spelled = re.compile(r"""["'](arq:(job|in-progress|retry|cause|result|abort)|tidepool:(receipt|budget))""")
    files = [path for suffix in ("py", "lua") for path in (ROOT / package).rglob(f"*.{suffix}")]
    assert len(files) > 5
    assert [] == [
        f"{path}: {line}"
        for path in files
        if path.name != "wire.py"
        for line in path.read_text("utf-8").splitlines()
        if spelled.search(line)
    ]


def test_each_script_has_the_prefixes_before_it() -> None:
    """On one line, so that the line numbers of an error of Redis are easy to reckon."""
    first, *_ = scripts.load(Redis(), "claim").script.splitlines()
    assert first.startswith("local JOB, ")
    assert "'arq:job:'" in first
