"""The laboratory's arithmetic: percentiles, ramps, layouts, and what makes an arm count."""

from typing import Any

import pytest

from lab.__main__ import command_line
from lab.percentiles import percentiles
from lab.tuning.arm import bound_by, fault_of, rate_of
from lab.tuning.layouts import Demand, Layout, layouts, medians
from lab.tuning.layouts_command import found
from lab.tuning.load import ClosedLoad
from lab.tuning.mix import jobs
from lab.tuning.pool_test_command import steps


def test_a_percentile_is_a_value_that_was_measured() -> None:
    """By nearest rank: of a hundred values the 95th, of one value that one, of none no value."""
    hundred = [float(number) for number in range(100, 0, -1)]
    assert {"p50": 50.0, "p95": 95.0, "p99": 99.0} == percentiles(hundred)
    assert {"p50": 7.0, "p95": 7.0, "p99": 7.0} == percentiles([7.0])
    assert {"p50": 2.0, "p95": 3.0, "p99": 3.0} == percentiles([3.0, 1.0, 2.0])
    assert {} == percentiles([])


@pytest.mark.parametrize(("most", "ramp"), [(100, [5, 10, 20, 40, 80, 100]), (5, [5]), (3, [3]), (40, [5, 10, 20, 40])])
def test_a_ramp_doubles_up_to_the_most(most: int, ramp: list[int]) -> None:
    """The last value is the maximum, even if it is no double."""
    assert ramp == steps(most)


def test_a_stall_in_one_slice_does_not_count() -> None:
    """Ten a second, but for one second in which nothing ended."""
    ended = [0, 10, 20, 20, 30, 40, 50]
    looks = [(float(at), count, 0.0) for at, count in enumerate(ended)]
    assert 10.0 == rate_of(looks, 1.0)


def test_a_load_that_nobody_looked_at_has_no_rate() -> None:
    """It ended with an IndexError before anybody could say what was wrong with the arm."""
    assert 0.0 == rate_of([], 1.0)


def load(**others: Any) -> ClosedLoad:
    """Return a load that was looked at a hundred times."""
    redis: Any = None
    return ClosedLoad(
        redis, jobs({"create_user": 1}), 100, looks=[(float(number), number, 0.0) for number in range(100)], **others
    )


@pytest.mark.parametrize(
    ("figures", "fault"),
    [
        ((500, 0, 0.2, 5.0, load()), ""),
        ((0, 0, 0.2, 5.0, load()), "no job ended"),
        ((500, 1, 0.2, 5.0, load()), "jobs were not applied"),
        ((500, 0, 0.9, 5.0, load()), "the client's core was full"),
        ((500, 0, 0.2, 80.0, load()), "the client's loop was late"),
        ((500, 0, 0.2, 5.0, load(dry_looks=6)), "the queue ran dry: ask for more --in-flight"),
    ],
)
def test_an_arm_that_the_client_held_back_does_not_count(figures: tuple[Any, ...], fault: str) -> None:
    """It shows the client's limit, not the pool's."""
    assert fault == fault_of(*figures)


def test_what_was_used_up_set_the_rate() -> None:
    """The pool before the worker, the worker before the machine."""
    idle: dict[str, float | None] = {"worker": 0.3, "postgresql": None, "redis": 0.1}
    assert "pool" == bound_by(idle, 1, 0.95)
    assert "worker" == bound_by({**idle, "worker": 0.9}, 1, 0.5)
    assert "" == bound_by({**idle, "worker": 0.9}, 2, 0.5)
    assert "machine" == bound_by({**idle, "others": 1000.0}, 1, 0.5)


def test_a_demand_has_pauses_that_make_its_load() -> None:
    """200 callers who hold for 100 ms and pause for 150 ms would use 80 connections."""
    demand = Demand(connections=100, callers=200, load=0.8, hold_ms=100, seconds=1, seed=1)
    assert pytest.approx(150.0) == demand.think_ms
    assert [Layout(1, 1), Layout(1, 4), Layout(4, 1)] == layouts([4])


def test_a_layouts_cost_is_compared_with_one_pool() -> None:
    """Its waits, what it serves, its memory."""
    one = {
        "layout": "1 pool",
        "size": 100,
        "wait_mean_ms": 2.0,
        "per_second": 600.0,
        "memory_mb": 30,
        "others_cpu": 0.1,
    }
    four = {
        "layout": "4 pools",
        "size": 25,
        "wait_mean_ms": 5.0,
        "per_second": 594.0,
        "memory_mb": 30,
        "others_cpu": None,
    }
    same = {**four, "layout": "2 pools", "wait_mean_ms": 2.1, "per_second": 600.0}
    assert [
        "4 pools of 25: waits 2.5 times as long as in one pool of 100, -1.0% uses/s, +0 MB",
        "2 pools of 25: waits as in one pool of 100, +0.0% uses/s, +0 MB",
    ] == found([one, four, same])
    assert found([one, {**four, "others_cpu": 1.2}])[0].startswith("other work took 1.2 cores meanwhile")


def test_the_rounds_of_a_layout_become_one() -> None:
    """Medians of its figures, sums of its counts; what the server does not tell stays unknown."""
    rounds = [
        {"layout": "1 pool", "succeeded": count, "wait_ms": {"p95": wait}, "cpu": 0.1, "postgresql_cpu": None}
        for count, wait in ((100, 5.0), (120, 30.0), (110, 7.0))
    ]
    assert {
        "layout": "1 pool", "succeeded": 330, "wait_ms": {"p95": 7.0}, "cpu": 0.1, "postgresql_cpu": None
    } == medians(rounds)  # fmt: skip


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("layouts", "--shards", "1"), "name a number of at least 2"),
        (("pool-test", "--hold-ms", "0"), "'0' is no number from 0.1 to 3.6e+06"),
        (("tune", "--values", "4,x"), "'4,x' is no list of whole numbers such as 2,4,8"),
        (("tune", "--mix", "create_user=0"), "'create_user=0' is no share such as place_order=7, of create_user"),
        (("tune", "--seconds", "nan"), "'nan' is no number"),
        (("load-test", "--url", "http://user:secret@host/"), "--url: is no address such as http://"),
        (("load-test", "--url", "http://host:99999/"), "--url: is no address such as http://"),
    ],
)
def test_a_wrong_command_line_is_reported(
    words: tuple[str, ...], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a line, before anything is started."""
    with pytest.raises(SystemExit, match="2"):
        command_line().parse(words)
    said = capsys.readouterr().err
    assert complaint in said
    assert "secret" not in said
