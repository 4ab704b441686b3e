"""The order of a run's arms, and the directory that keeps them."""

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from lab.tuning.arm import Arm
from lab.tuning.record import Record
from lab.tuning.trials import Plan, trials, usual_of
from settings import Settings
from tidepool.cli.terminal import CommandError


def plan(**others: Any) -> Plan:
    """Return a plan of three sizes in two rounds."""
    usual: dict[str, Any] = {
        "setting": "POOL_MAX_SIZE", "values": (1, 4, 8), "repeats": 2, "seconds": 1.0, "in_flight": 100,
        "think_ms": 0.0, "mix": {"create_user": 1}, "usual": usual_of(Settings(), 2), "seed": 7,
    }  # fmt: skip
    return Plan(**{**usual, **others})


def arm(number: int, **others: Any) -> Arm:
    """Return an arm that was measured."""
    usual: dict[str, Any] = {
        "number": number, "round": 0, "value": 4, "kind": "value", "jobs_per_second": 100.0, "wait_ms": {"p50": 1.0},
        "latency_ms": {"p50": 2.0}, "cpu": {"worker": 0.5, "postgresql": None}, "memory_mb": {"worker": 70.0},
        "connections": {"open": 4.0}, "client_lag_ms": 1.0, "bound": "pool", "invalid": "",
    }  # fmt: skip
    return Arm(**{**usual, **others})


def test_every_round_has_every_size_between_two_controls() -> None:
    """A-B-A: what the machine does is seen around each round."""
    order = trials(plan())
    assert list(range(11)) == [trial.number for trial in order]
    assert [0, 5, 10] == [trial.number for trial in order if trial.kind == "control"]
    assert {4} == {trial.value for trial in order if trial.kind == "control"}
    measured = Counter((trial.round, trial.value) for trial in order if trial.kind == "value")
    assert {(number, size): 1 for number in (0, 1) for size in (1, 4, 8)} == measured
    assert [0, 1] == [trial.round for trial in order if trial.kind == "defaults"]


def test_a_seed_is_an_order() -> None:
    """The same one again for the same seed, another for another."""
    many = plan(values=tuple(range(1, 30)))
    assert trials(many) == trials(many)
    assert trials(many) != trials(plan(values=tuple(range(1, 30)), seed=8))


def test_the_control_is_the_size_in_use_or_next_to_it() -> None:
    """Whatever ladder was asked for."""
    assert 4 == plan(values=(1, 2, 4, 8)).control
    assert 10 == plan(values=(10, 20)).control
    assert 300 == plan(setting="POOL_MAX_INACTIVE_TIME", values=(1, 300)).control


def test_an_arm_has_one_setting_of_its_own() -> None:
    """The others are as they are set; the defaults are those of asyncpg and arq, all of them."""
    many = plan(setting="BATCH_LIMIT", values=(1, 50))
    of = {(trial.kind, trial.value): many.variables(trial) for trial in trials(many)}
    assert {**many.variables(trials(many)[0]), "BATCH_LIMIT": "50"} == of["value", 50]
    assert ("1", "4", "2000") == tuple(of["value", 1][n] for n in ("BATCH_LIMIT", "POOL_MAX_SIZE", "MAX_JOBS"))
    assert ("1", "10", "10", "0.5") == tuple(
        of["defaults", 0][name] for name in ("BATCH_LIMIT", "POOL_MIN_SIZE", "MAX_JOBS", "POLL_DELAY")
    )
    assert all("WORKERS" not in variables for variables in of.values())
    assert {2} == {many.workers(trial) for trial in trials(many)}


def test_a_pool_smaller_than_the_usual_floor_has_a_smaller_floor() -> None:
    """A worker does not start if its minimum of connections exceeds its maximum."""
    floor = plan(usual={**usual_of(Settings(), 1), "POOL_MIN_SIZE": "3"})
    floors = {trial.value: floor.variables(trial)["POOL_MIN_SIZE"] for trial in trials(floor) if trial.value}
    assert {1: "1", 4: "3", 8: "3"} == floors


def test_workers_are_varied_as_a_setting_is() -> None:
    """Their connections are what the largest arm, or that of the defaults, asks for."""
    fleet = plan(setting="WORKERS", values=(1, 3))
    assert {("value", 1): 1, ("value", 3): 3, ("control", 1): 1, ("defaults", 0): 2} == {
        (trial.kind, trial.value): fleet.workers(trial) for trial in trials(fleet)
    }
    assert 22 == fleet.connections
    assert 18 == plan(values=(2, 8), usual={**usual_of(Settings(), 1)}).connections + 7


def test_a_run_goes_on_where_it_was_cut_off(tmp_path: Path) -> None:
    """With its own plan, and without the line that was being written."""
    record = Record.begin(tmp_path / "run", plan())
    record.add(arm(0))
    record.add(arm(1, invalid="the queue ran dry"))
    with (tmp_path / "run" / "arms.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"number": 2, "rou')
    again = Record.resume(tmp_path / "run")
    assert plan() == again.plan
    assert [arm(0), arm(1, invalid="the queue ran dry")] == again.arms
    again.add(arm(2))
    assert 3 == len(Record.resume(tmp_path / "run").arms)


def test_a_run_before_its_first_arm_goes_on(tmp_path: Path) -> None:
    """Ctrl-C at once."""
    Record.begin(tmp_path, plan())
    assert [] == Record.resume(tmp_path).arms


def test_a_directory_is_not_taken_twice(tmp_path: Path) -> None:
    """A directory without a run cannot be continued either."""
    Record.begin(tmp_path, plan())
    with pytest.raises(CommandError, match="has a run already"):
        Record.begin(tmp_path, plan())
    with pytest.raises(CommandError, match="has no run to go on with"):
        Record.resume(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("plan.json", "{}"),
        ("plan.json", "[]"),
        ("plan.json", '{"values": [1], "sizes": 3}'),
        ("arms.jsonl", '{"number": 0}\n'),
        ("arms.jsonl", "7\n"),
        ("arms.jsonl", "garbage\n"),
    ],
)
def test_a_run_that_cannot_be_read_is_reported(tmp_path: Path, name: str, text: str) -> None:
    """It is damaged, or an older version has made it."""
    Record.begin(tmp_path, plan())
    (tmp_path / name).write_text(text, "utf-8")
    with pytest.raises(CommandError, match="has no run to go on with, or one of another version"):
        Record.resume(tmp_path)


def test_the_results_are_a_document_and_a_table(tmp_path: Path) -> None:
    """The table has a column for each figure."""
    record = Record.begin(tmp_path, plan())
    record.add(arm(0))
    record.finish({"knee": 4})
    assert {"knee": 4} == json.loads((tmp_path / "report.json").read_text("utf-8"))
    with (tmp_path / "arms.csv").open(encoding="utf-8") as file:
        row = next(csv.DictReader(file))
    assert ("4", "0.5", "", "2.0") == (row["value"], row["cpu.worker"], row["cpu.postgresql"], row["latency_ms.p50"])
