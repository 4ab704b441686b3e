"""The figures of a pool: counters go on, peaks begin anew, buckets have their bounds."""

from tidepool.pool.figures import BOUNDS_US, PoolStats


def test_peaks_are_those_since_the_last_figures() -> None:
    """Counters go on, peaks begin anew at the present reading."""
    stats = PoolStats(queries=7)
    stats.move(in_use=4, waiting=9)
    stats.move(in_use=-3, waiting=-7)
    stats.waited(5)
    stats.held(6)
    first, second = stats.figures(), stats.figures()
    peaks = ("in_use_max", "waiting_max", "wait_us_max", "hold_us_max", "queries")
    assert [4, 9, 5, 6, 7] == [first[name] for name in peaks]
    assert [1, 2, 0, 0, 7] == [second[name] for name in peaks]


def test_a_bucket_includes_its_upper_bound() -> None:
    """Times above all bounds have a bucket of their own."""
    stats = PoolStats()
    for us in (0, BOUNDS_US[0], BOUNDS_US[0] + 1, BOUNDS_US[-1], BOUNDS_US[-1] + 1):
        stats.held(us)
    assert [2, 1, *[0] * 14, 1, 1] == stats.hold_hist
