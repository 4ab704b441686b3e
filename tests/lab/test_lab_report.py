"""What a run of `tune` says: medians by size, the knee, the drift, the advisor, and when it recommends nothing."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lab.tuning.arm import Arm
from lab.tuning.findings import words
from lab.tuning.record import Record
from lab.tuning.trials import Kind, Plan, trials
from lab.tuning.tune import Judged, report

RATES = {1: 400.0, 2: 980.0, 4: 1000.0, 0: 245.0}


@pytest.fixture
def record(tmp_path: Path) -> Record:
    """Give a run of two rounds that is complete."""
    usual = {"POOL_MAX_SIZE": "4", "POOL_MIN_SIZE": "1", "BATCH_LIMIT": "1", "WORKERS": "1"}
    plan = Plan("POOL_MAX_SIZE", (1, 2, 4), 2, 1.0, 100, 0.0, {"create_user": 1}, usual, 7)
    return Record(tmp_path, plan, [arm(trial.number, trial.round, trial.value, trial.kind) for trial in trials(plan)])


def arm(number: int, of_round: int, value: int, kind: Kind, **others: Any) -> Arm:
    """Return an arm as the pool of its size would be."""
    usual: dict[str, Any] = {
        "jobs_per_second": RATES[value], "wait_ms": {"p50": 1.0}, "latency_ms": {"p50": 2.0},
        "cpu": {"worker": 0.5, "others": 0.1}, "memory_mb": {"worker": 70.0}, "connections": {"open": float(value)},
        "client_lag_ms": 1.0, "bound": "pool", "invalid": "",
    }  # fmt: skip
    return Arm(number, of_round, value, kind, **{**usual, **others})


def said(advised: int | None = None) -> Judged:
    """Return what the advisor says of a size."""
    return Judged("ok", "", advised)


def test_the_smallest_good_size_is_to_be_used(record: Record) -> None:
    """The report also says how many times as high its rate is as that of the defaults."""
    document = report(record, {})
    assert {"POOL_MAX_SIZE": 2} == document.settings
    assert (245, 4.0) == (document.defaults.jobs_per_second, document.defaults.factor)
    assert [(1, 400, 2), (2, 980, 2), (4, 1000, 2)] == [
        (row.value, row.jobs_per_second, row.arms) for row in document.rows
    ]
    assert ({"worker": 0.5, "others": 0.1}, "pool") == (document.rows[0].cpu, document.rows[0].bound)
    assert 0.1 == document.others


def test_workers_are_named_as_processes(record: Record) -> None:
    """They are no setting that could be set."""
    document = replace(report(record, {}), settings={"WORKERS": 2}, plot="plot.png")
    said = words(record, document)
    assert "  2 worker processes" == said[said.index("use") + 1]


def test_a_run_that_is_not_complete_recommends_nothing(record: Record) -> None:
    """It was interrupted: the best sizes may be yet to come."""
    record.arms.pop()
    document = report(record, {})
    assert (10, 11, {}) == (document.arms, document.of, document.settings)


def test_arms_that_do_not_count_are_counted_apart(record: Record) -> None:
    """A run without valid arms has no knee."""
    record.arms = [arm(n, 0, 2, "value", invalid="the queue ran dry") for n in range(11)]
    document = report(record, {})
    assert ({"the queue ran dry": 11}, None, {}) == (document.invalid, document.knee, document.settings)
    assert [0, 0, 0] == [row.arms for row in document.rows]


def test_controls_that_come_apart_tell_of_an_unsteady_machine(record: Record) -> None:
    """By how much, as a share of their median."""
    assert (0.0, True) == (report(record, {}).drift.spread, report(record, {}).drift.steady)
    record.arms[0] = arm(0, 0, 4, "control", jobs_per_second=700.0)
    drift = report(record, {}).drift
    assert (0.3, False) == (drift.spread, drift.steady)


@pytest.mark.parametrize(("advised", "agrees"), [(2, True), (4, True), (1, False), (8, False), (None, None)])
def test_the_advisor_agrees_where_it_names_a_size_as_good(record: Record, advised: Any, agrees: Any) -> None:
    """From the knee to the last size that is as good; without advice it neither agrees nor disagrees."""
    assert agrees == report(record, {2: said(advised=advised)}).advisor.agrees
    assert report(record, {4: said(advised=4)}).advisor is None
