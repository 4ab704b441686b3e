"""The drill's timeline, out of ledger rows and snapshots that are planted."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from lab.drill import timeline
from lab.drill.arena import Arena
from lab.drill.run import Injected
from tidepool.cli.terminal import CommandError

BEGAN = datetime(2026, 1, 1, 12, tzinfo=UTC)
_JOB = """
INSERT INTO job_results (job_id, function, status, result, error, attempts, worker_id, enqueued_at, started_at,
                         finished_at, queue_us, pool_wait_us, db_us)
SELECT $1 || n, 'create_user', $2::text, CASE $2::text WHEN 'applied' THEN '{}'::jsonb END,
       CASE $2::text WHEN 'failed' THEN 'gave up' END, 1, 'w', $3, $3, $3, 1000, 2000, 3000
FROM generate_series(1, $4::integer) AS n
"""


class Planted:
    """An arena whose database is the test's."""

    def __init__(self, connection: Any) -> None:
        self.fetch = connection.fetch


async def plant(connection: Any, at_s: float, jobs: int, status: str = "applied") -> None:
    """Let so many jobs have ended so many seconds after the fault began."""
    await connection.execute(_JOB, f"{at_s}-{status}-", status, BEGAN + timedelta(seconds=at_s), jobs)


def fault(**others: Any) -> Injected:
    """Return a fault of two seconds, after which it took one to recover."""
    usual: dict[str, Any] = {"fault": "kill", "began": BEGAN.isoformat(), "lasted_s": 2.0, "recovery_s": 1.0}
    rates = {"shots": 1, "before": 100.0, "during": 0.0, "caught_up_s": 0.0, "after": 100.0, "slow_after": False}
    return Injected(**{**usual, **rates, **others})


async def test_a_fault_is_marked_among_rate_waits_and_failures(connection: Any, tmp_path: Path) -> None:
    """For two seconds nothing ended, and of the jobs afterwards one failed."""
    await plant(connection, -1.9, 50)
    await plant(connection, 0.1, 10)
    await plant(connection, 3.1, 29)
    await plant(connection, 3.2, 1, "failed")
    arena = cast("Arena", Planted(connection))
    drawn = await timeline.write(arena, [fault()], tmp_path / "kill.json")
    assert drawn is not None
    [mark] = drawn.marks
    assert (5.0, 7.0, 8.0) == (mark.began_s, mark.mended_s, mark.recovered_s)
    assert (40, 0.975, 2.0) == (mark.jobs, mark.success_rate, mark.dark_s)
    assert 26 == len(drawn.slots)
    assert {3.0: 100.0, 5.0: 20.0, 8.0: 60.0} == {s["at_s"]: s["per_second"] for s in drawn.slots if s["per_second"]}
    assert [(8.0, 1, 6.0, 2.0)] == [
        (s["at_s"], s["failed"], s["latency_ms"], s["wait_ms"]) for s in drawn.slots if s["failed"]
    ]
    assert drawn.slots == json.loads((tmp_path / "kill.json").read_text("utf-8"))["slots"]
    assert timeline.said(mark).startswith(
        "kill: 2.0 s, recovered 1.0 s after the mend, 2.0 s without an outcome; 97.5%"
    )


async def test_without_a_fault_there_is_no_timeline(connection: Any, tmp_path: Path) -> None:
    """A drill whose time was over before the first."""
    assert await timeline.write(cast("Arena", Planted(connection)), [], tmp_path / "none.json") is None


def test_what_cannot_be_drawn_is_said_before_the_drill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No matplotlib, or no place for the file."""
    monkeypatch.setattr("lab.tuning.plot.find_spec", lambda _name: None)
    with pytest.raises(CommandError, match="matplotlib is not installed"):
        timeline.require(tmp_path / "drawn.png")
    with pytest.raises(CommandError, match="no such directory"):
        timeline.require(tmp_path / "nowhere" / "figures.json")
    timeline.require(tmp_path / "figures.json")
