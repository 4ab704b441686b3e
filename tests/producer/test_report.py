"""The report of a run: its sums, its percentiles, and the shape that scripts rely on."""

import random

import pytest
from factories import a_finished_job

from producer.report import RunReport


def a_report() -> RunReport:
    """Return the report of seven enqueued jobs, of which six have their outcome."""
    report = RunReport(enqueued=7, duplicates=2, refused=1, enqueue_seconds=0.5, run_seconds=2.0)
    report.count([a_finished_job("applied"), a_finished_job("applied"), a_finished_job("failed")])
    report.count([a_finished_job("rejected", reason="email_taken")])
    report.count(a_finished_job("rejected", function="place_order", reason="out_of_stock") for _ in range(2))
    return report


def test_everything_given_is_accounted_for() -> None:
    """Enqueued, known already, or refused; and of the enqueued, finished or pending."""
    report = a_report()
    assert (10, 6, 1) == (report.given, report.finished, report.pending)
    assert (2, 3, 1) == tuple(report.total(status) for status in ("applied", "rejected", "failed"))


def test_the_json_report_has_the_names_of_the_contract() -> None:
    """Other programs read these."""
    waited = {"p50": 1.0, "p95": 1.0, "p99": 1.0, "max": 1.0}
    document = a_report().as_json()
    assert {**document["queue_wait_ms"], "max": 1.0} == pytest.approx(waited, rel=0.01)
    assert {
        "enqueued": 7,
        "duplicates": 2,
        "refused": 1,
        "enqueue_seconds": 0.5,
        "applied": 2,
        "rejected": 3,
        "failed": 1,
        "pending": 1,
        "by_function": {
            "create_user": {"applied": 2, "rejected": 1, "failed": 1},
            "place_order": {"applied": 0, "rejected": 2, "failed": 0},
        },
        "rejections": {"email_taken": 1, "out_of_stock": 2},
        "run_seconds": 2.0,
        "jobs_per_second": 3.0,
    } == {name: value for name, value in document.items() if name != "queue_wait_ms"}


def test_the_seed_is_printed_where_there_is_one() -> None:
    """Seed 0 is one."""
    assert 0 == RunReport(seed=0).as_json()["seed"]
    assert "seed" not in RunReport().as_json()


def test_an_empty_run_divides_by_nothing() -> None:
    """Zeros instead."""
    document = RunReport().as_json()
    assert 0.0 == document["jobs_per_second"]
    assert {"p50": 0.0, "p95": 0.0, "p99": 0.0, "max": 0.0} == document["queue_wait_ms"]


@pytest.mark.parametrize(
    ("report", "status"),
    [(RunReport(enqueued=1), 0), (RunReport(duplicates=5), 0), (RunReport(refused=1), 1)],
)
def test_a_refusal_makes_exit_status_1(report: RunReport, status: int) -> None:
    """Duplicates are no failure."""
    assert status == report.exit_status


@pytest.mark.parametrize(("job_status", "status"), [("applied", 0), ("rejected", 0), ("failed", 1)])
def test_a_failed_job_makes_exit_status_1(job_status: str, status: int) -> None:
    """A rejection is an answer, not a failure."""
    report = RunReport(enqueued=1)
    report.count([a_finished_job(job_status)])
    assert status == report.exit_status


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("most_us", [10, 1000, 60_000_000])
def test_percentiles_are_right_to_one_per_cent(seed: int, most_us: int) -> None:
    """Against the sorted durations themselves; under 100 us the report's own rounding counts more."""
    durations = sorted(random.Random(seed).choices(range(most_us), k=5000))
    report = RunReport()
    report.count(a_finished_job("applied", queue_us=duration) for duration in durations)
    waits_ms = report.as_json()["queue_wait_ms"]
    assert durations[-1] / 1000 == waits_ms["max"]
    for q in (50, 95, 99):
        exact = durations[q * len(durations) // 100 - 1] / 1000
        assert exact == pytest.approx(waits_ms[f"p{q}"], rel=0.01, abs=0.001)


def test_no_percentile_exceeds_the_maximum() -> None:
    """The buckets' width must not show."""
    report = RunReport()
    report.count([a_finished_job("applied", queue_us=1_000_003)])
    waits_ms = report.as_json()["queue_wait_ms"]
    assert {"p50": 1000.003, "p95": 1000.003, "p99": 1000.003, "max": 1000.003} == pytest.approx(waits_ms, rel=0.01)
    assert waits_ms["p99"] <= waits_ms["max"]
