"""The checks that find what limits the workers, in the order in which they are applied.

`CHECKS` is the table: what each check looks at, where its limits are, and why. A check that would make the figures of
later checks worthless comes before them. The tables in `docs/pool.md` are generated from it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

from tidepool.advice.evidence import BUSY, CROWDED_LIMITS, Crowding, Evidence, Limit
from tidepool.advice.sizing import Advice, Load
from tidepool.advice.study import Study
from tidepool.advice.window import Tick, Window, ratio


class _Measured(NamedTuple):
    """The figures that a check has compared with its limits, and whether it holds."""

    evidence: Sequence[Evidence]
    holds: bool


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check for what limits the workers: whether the check holds, and the figures behind that.

    *words* is a sentence for people.
    """

    check: str
    verdict: str
    holds: bool
    words: str
    evidence: Sequence[Evidence]


_PARTS = 5
"""Parts that a window is cut into: each is long enough for a mean, and five are enough to see what comes and goes."""
_LASTED = Limit(f"in a row, of {_PARTS} parts of the time", "", 2, "a single burst can lift the mean of a whole window")


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check for something that may limit the workers, such as a slow database or a pool that is too small.

    A check measures figures, and *holds* if they are beyond its limits. *name* is unique; several checks may lead to
    the same *verdict*. Each check is a row of the table `CHECKS`.
    """

    name: str
    verdict: str
    words: str
    """What is wrong, for the operator."""
    when: str
    """When it holds, for the documentation."""
    because: str = ""
    """Why that is so, or why the check has this place."""
    limits: Sequence[Limit] = ()
    measure: Callable[[Study], _Measured]
    size: Callable[[Study, Advice], _Measured] | None = None
    """Set if the check compares the advised size, too: both measures have to hold, and there has to be advice."""
    lasts: bool = False
    """Whether *measure* has to hold in two of five parts of the time in a row, as well as over the whole time."""
    allows_advice: bool = False
    """Whether a size may be advised although this check holds: the figures are sound, and more connections can help."""

    def find(self, study: Study, advice: Advice | None = None) -> Finding:
        """Run the check on the figures of a group of processes, *study*, and return its result.

        A check of the pool's size also compares the current size with the size that *advice* recommends.
        """
        evidence, holds = self.measure(study)
        if holds and self.lasts:
            lasted = _LASTED.against(_longest_run([self._holds_in(part) for part in study.parts(_PARTS)]))
            evidence, holds = [*evidence, lasted], lasted.counts
        if self.size and advice:
            of_size, is_size = self.size(study, advice)
            evidence, holds = [*evidence, *of_size], holds and is_size
        return Finding(self.name, self.verdict, holds, self.words, evidence)

    def _holds_in(self, part: Study) -> bool:
        return bool(part.window.ticks) and self.measure(part).holds


def _longest_run(held: Sequence[bool]) -> int:
    return max(sum(1 for _ in run) if is_held else 0 for is_held, run in groupby(held))


def _any(*evidence: Evidence) -> _Measured:
    return _Measured(evidence, any(one.counts for one in evidence))


def _all(*evidence: Evidence) -> _Measured:
    return _Measured(evidence, all(one.counts for one in evidence))


_WAITED = Limit("ticks in which jobs or callers waited", "share", 0.5, "occasional waiting is normal")
_QUEUED_US = 1_000_000
"""Microseconds that the oldest job has been due in Redis: a worker that keeps up takes jobs within milliseconds."""
_TICK_SATURATED = 0.05
"""Share of one tick with a queue at the gate: in so short a time the 1 % of a whole window is a single arrival."""


def _waited(window: Window) -> Evidence:
    """Return in which share of the ticks something waited: jobs in Redis or the batcher, or callers at the gate."""
    return _WAITED.against(ratio(sum(_waits(tick) for tick in window.ticks), len(window.ticks)))


def _waits(tick: Tick) -> bool:
    is_queued = (tick.now.queue_oldest_us or 0) >= _QUEUED_US
    is_saturated = tick.gained.saturated_us >= _TICK_SATURATED * tick.us
    return is_queued or is_saturated or Crowding.of(Window([tick])).is_of_batcher


_TICKS = Limit("ticks", "", 10, "with fewer, shares and quantiles are random", below=True)


def _few_ticks(study: Study) -> _Measured:
    return _any(_TICKS.against(len({tick.now.tick for tick in study.window.ticks})))


_RESTARTS = Limit(
    "restarts of the database seen", "", 1, "after a restart, caches are cold and all connections are new"
)
_NOT_OPENED = Limit("connections not opened", "", 1, "a healthy server refuses no connection")
_LOST_SHARE = 0.5
"""Share of a pool: single connections are lost to timeouts of a network, half of them at once only to an outage."""
_LOST = Limit(
    "connections lost in a tick", "", 2, "a single lost connection is normal",
    derived="half of the pool's, and at least 2",
)  # fmt: skip


def _outage(study: Study) -> _Measured:
    window, gained = study.window, study.window.gained
    lost = max((tick.gained.closed_lost_idle + tick.gained.closed_lost_in_use for tick in window.ticks), default=0)
    refused = gained.connect_refused + gained.connect_starting + gained.connect_timeouts + gained.connect_errors
    return _any(
        _RESTARTS.against(gained.database_restarts),
        _NOT_OPENED.against(refused),
        _LOST.against(lost, limit=max(_LOST.value, _LOST_SHARE * window.limit)),
    )


_TOO_MANY = Limit("connections refused as too many", "", 1, "the connection budget is there to prevent this")


def _too_many_clients(study: Study) -> _Measured:
    return _any(_TOO_MANY.against(study.window.gained.connect_too_many))


_OVERDUE = Limit(
    "ticks with an overdue holder", "", 2, "a single tick may show a slow transaction that is about to end"
)


def _overdue_holders(study: Study) -> _Measured:
    ticks = study.window.ticks
    longest_us = max((tick.now.oldest_hold_us for tick in ticks), default=0)
    overdue = _OVERDUE.against(sum(tick.now.overdue_holders > 0 for tick in ticks))
    return _Measured([overdue, Evidence("longest hold", longest_us / 1e6, "s", None)], overdue.counts)


_LOCKED_SHARE = 0.5
"""Share of the active sessions of one tick: with fewer, the other half still works."""
_LOCKED = Limit("ticks with half waiting for locks", "", 3, "a short lock is over before the next tick")


def _lock_waits(study: Study) -> _Measured:
    locked = sum(one.active > 0 and one.waiting_lock >= _LOCKED_SHARE * one.active for one in study.database)
    return _any(_LOCKED.against(locked))


_USES = Limit(
    "uses", "", 500, "a 99th percentile needs a few hundred",
    below=True, derived=f"500, or 30 if at least {BUSY} of the connections are in use",
)  # fmt: skip
_USES_OF_BUSY = 30
"""Enough for a pool that is in use nearly all the time: long holds are few."""


def _few_uses(study: Study) -> _Measured:
    is_busy = (study.window.utilisation or 0.0) >= BUSY.value
    return _any(_USES.against(study.window.gained.acquire_ok, limit=_USES_OF_BUSY if is_busy else None))


_OFF_SHARE, _OFF_FLOOR = 0.1, 0.5
"""Share of the connections in use, on average, and at least of half a connection: sums and integrals are read moments
apart."""
_OFF = Limit(
    "rate x hold against in use", "", _OFF_SHARE * _OFF_FLOOR, "by Little's law both are the same number",
    derived=f"{_OFF_SHARE * 100:g} % of the connections in use",
)  # fmt: skip


def _contradiction(study: Study) -> _Measured:
    gained, us = study.window.gained, max(study.window.us, 1)
    ended_us = gained.hold_us_sum + gained.holding_us  # of the uses that have ended, and of those that have not
    limit = _OFF_SHARE * max(gained.in_use_us / us, _OFF_FLOOR)
    return _any(_OFF.against(abs(ended_us - gained.in_use_us) / us, limit=limit))


_REOPENED = Limit("connections opened per use", "", 0.05, "a normal pool opens one connection in thousands of uses")
_CONNECTING = Limit("time spent connecting", "share", 0.2, "less is small compared with waits and holds")


def _churn(study: Study) -> _Measured:
    gained = study.window.gained
    spent_us = gained.connect_us_sum + gained.wait_us_sum + gained.hold_us_sum
    return _all(
        _REOPENED.against(ratio(gained.connections_opened, gained.acquire_ok)),
        _CONNECTING.against(ratio(gained.connect_us_sum, spent_us)),
    )


_BLOCKED_IDLE_MS = 50.0
"""Milliseconds, if nothing waits: a loop that is blocked for longer is at fault all the same."""
_BLOCKED_SHARE_OF_HOLD = 0.2
"""Share of a median hold: a shorter block changes no figure noticeably."""
_BLOCKED = Limit(
    "loop blocked by its own code, p99", "ms", 20.0, "the garbage collector alone blocks for some milliseconds",
    derived="20 ms if something waits, else 50 ms; or a fifth of the median hold if that is longer",
)  # fmt: skip
_CPU = Limit("CPU that the process used or waited for", "share", 0.85, "an event loop has one core, and needs pauses")


def _loop_bound(study: Study) -> _Measured:
    """Measure only what our own code blocked, and the CPU only while something waits for it."""
    window, gained = study.window, study.window.gained
    waiting = _waited(window)
    hold_ms = window.hold_p50_ms or 0.0
    limit_ms = max(_BLOCKED.value if waiting.counts else _BLOCKED_IDLE_MS, _BLOCKED_SHARE_OF_HOLD * hold_ms)
    blocked = _BLOCKED.against(window.loop_block_p99_ms, limit=limit_ms)
    cpu = _CPU.against((gained.cpu_us + gained.cpu_wait_us) / max(window.us, 1))
    return _Measured([blocked, cpu, waiting], blocked.counts or (cpu.counts and waiting.counts))


_COMMIT = Limit("COMMIT, mean", "ms", 20.0, "a healthy disk takes a few milliseconds")
_COMMITTING = Limit("share of holds spent in COMMIT", "share", 0.5, "with less, the statements are the larger part")


def _slow_commits(study: Study) -> _Measured:
    gained = study.window.gained
    committing = _COMMITTING.against(ratio(gained.commit_us_sum, gained.in_use_us))
    return _all(_COMMIT.against(study.window.commit_ms), committing, _waited(study.window))


_FULL, _CALM = 0.9, 0.5
"""Shares of the connections in use, on average over a tick: nearly all of them, and so few that none waits."""
_SLOWER_WHEN_FULL = Limit(
    "queries, full against calm ticks", "x", 1.5, "smaller differences come from caches and the mix of queries"
)
_SLOWER_THAN_BEFORE = Limit("queries, against the time before", "x", 2.0, "the mix of queries changes with time")
_MIN_TICKS, _MIN_QUERIES = 3, 50
"""Of either side of a comparison: the means of fewer differ by chance."""


def _slower(one: Window, other: Window) -> float | None:
    """Return how many times as long queries took in *one*; None if either has too few to compare."""
    enough = all(len(side.ticks) >= _MIN_TICKS and side.gained.queries >= _MIN_QUERIES for side in (one, other))
    return ratio(one.query_ms, other.query_ms) if enough else None


def _slower_when_full(study: Study) -> _Measured:
    around = Window([*study.before.ticks, *study.window.ticks])
    full = around.only(lambda tick: tick.utilisation >= _FULL)
    calm = around.only(lambda tick: tick.utilisation <= _CALM)
    return _all(_SLOWER_WHEN_FULL.against(_slower(full, calm)), _waited(study.window))


def _slower_than_before(study: Study) -> _Measured:
    return _all(_SLOWER_THAN_BEFORE.against(_slower(study.window, study.before)), _waited(study.window))


_WORKING = Limit(
    "share of holds spent in queries",
    "share",
    0.5,
    "with more, releasing connections between queries gains little",
    below=True,
)


def _idle_holders(study: Study) -> _Measured:
    gained = study.window.gained
    crowding = Crowding.of(study.window)
    working = _WORKING.against(ratio(gained.query_us_sum, gained.in_use_us))
    return _Measured([*crowding, working], crowding.is_crowded and working.counts)


def _crowded(study: Study) -> _Measured:
    crowding = Crowding.of(study.window)
    return _Measured(list(crowding), crowding.is_crowded)


_NEEDED = Limit("size needed", "", 1, "the demand is not met", derived="one more than the pool's limit")
_GIVEN = Limit(
    "most the server gives to each", "", 1, "the fleet's budget ends before the demand", below=True,
    derived="the size needed",
)  # fmt: skip


def _no_room(study: Study, advice: Advice) -> _Measured:
    return _all(
        _NEEDED.against(advice.demand, limit=advice.limit + 1), _GIVEN.against(study.budget, limit=advice.demand)
    )


_LARGER = Limit("size advised", "", 1, "more connections would be used", derived="one more than the pool's limit")


def _too_small(_study: Study, advice: Advice) -> _Measured:
    return _all(_LARGER.against(advice.size, limit=advice.limit + 1))


_TOO_LARGE_SHARE = 0.75
"""Share of the pool's limit: a pool that is a little too large costs nothing."""
_SMALLER = Limit(
    "size advised", "", 1, "the load fits into fewer", below=True, derived="three quarters of the pool's limit"
)
_PEAK = Limit(
    "most in use at a time", "", 1, "more were in use in the last seven days", below=True,
    derived="three quarters of the pool's limit",
)  # fmt: skip
_SPARE = Limit("connections to spare", "", 3, "one or two are not worth a change")


def _too_large(study: Study, advice: Advice) -> _Measured:
    limit = _TOO_LARGE_SHARE * advice.limit
    return _all(
        _SMALLER.against(advice.size, limit=limit),
        _PEAK.against(study.peak, limit=limit),
        _SPARE.against(advice.limit - advice.size),
    )


def _nothing_asked(_study: Study) -> _Measured:
    return _Measured([], holds=True)


def _wait_p95(study: Study) -> _Measured:
    load = Load.of(study.window.ticks)
    wait = Limit("wait p95", "ms", load.target_ms if load else 0.0, "")
    return _Measured([wait.against(study.window.wait_p95_ms)], holds=True)


CHECKS: tuple[Check, ...] = (
    Check(
        name="few_snapshots",
        verdict="insufficient_data",
        words="there are too few snapshots to tell",
        when=f"fewer than {_TICKS} ticks",
        because="too few for any conclusion",
        limits=[_TICKS],
        measure=_few_ticks,
    ),
    Check(
        name="outage",
        verdict="incident",
        words="the database was away or restarted: look at a time without that",
        when="a restart of the database was seen, a connection could not be opened, or half of a pool's connections "
        "(at least two) were lost in one tick",
        because="the figures describe the outage, not the normal load",
        limits=[_RESTARTS, _NOT_OPENED, _LOST],
        measure=_outage,
    ),
    Check(
        name="too_many_clients",
        verdict="budget_bound",
        words="the server has no more connections to give",
        when="the server refused a connection as one too many",
        because="other programs have taken connections that the budget counted on",
        limits=[_TOO_MANY],
        measure=_too_many_clients,
    ),
    Check(
        name="overdue_holders",
        verdict="leak",
        words="somebody keeps a connection and does not give it back; see the events",
        when=f"in {_OVERDUE} ticks a caller held a connection for longer than a transaction may last (`JOB_TIMEOUT` + "
        "`COMMAND_TIMEOUT`)",
        because="a larger pool would only hide it",
        limits=[_OVERDUE],
        measure=_overdue_holders,
    ),
    Check(
        name="lock_waits",
        verdict="database_bound",
        words="transactions wait for each other's locks in the database",
        when=f"in {_LOCKED} ticks at least half of the active sessions waited for a lock",
        because="seen from the server, and before the uses are counted: if everything stands still, no query ends that "
        "could be timed",
        limits=[_LOCKED],
        measure=_lock_waits,
    ),
    Check(
        name="few_uses",
        verdict="insufficient_data",
        words="the pool was used too little to tell",
        when=f"fewer than {_USES.value:g} uses ({_USES_OF_BUSY} if {BUSY} of the pool is in use)",
        because="the figures below are means and quantiles of uses",
        limits=[_USES],
        measure=_few_uses,
    ),
    Check(
        name="contradiction",
        verdict="insufficient_data",
        words="the figures contradict each other",
        when=f"rate x hold differs from the connections in use by more than {_OFF_SHARE * 100:g} %",
        because="Little's law contradicts the recorded figures",
        limits=[_OFF],
        measure=_contradiction,
    ),
    Check(
        name="reconnecting",
        verdict="churn",
        words="connections are opened again and again instead of being kept",
        when=f"at least one connection opened per {1 / _REOPENED.value:g} uses, and {_CONNECTING} of the time spent on "
        "opening",
        because="before the loop: opening many connections at once blocks it, and a blocked loop opens none",
        limits=[_REOPENED, _CONNECTING],
        measure=_churn,
    ),
    Check(
        name="busy_loop",
        verdict="loop_bound",
        words="the worker's own process is the limit: its event loop is blocked, or it wants more CPU than it gets",
        when="p99 of the lag that our own code causes is above a fifth of the median hold and above "
        f"{_BLOCKED.value:g} ms ({_BLOCKED_IDLE_MS:g} ms if nothing waits), or the process used or waited for {_CPU} "
        "of a core while something waits",
        because="the blocked loop itself lengthens waits and holds",
        limits=[_BLOCKED, _CPU, _WAITED, _LASTED],
        measure=_loop_bound,
        lasts=True,
    ),
    Check(
        name="slow_commits",
        verdict="database_bound",
        words="transactions spend most of their time in COMMIT: in the server's disk, replicas or deferred constraints",
        when=f"a COMMIT takes {_COMMIT} and {_COMMITTING} of the time that connections are held, while something waits",
        because="disk, replicas or deferred constraints: more connections do not help",
        limits=[_COMMIT, _COMMITTING, _WAITED, _LASTED],
        measure=_slow_commits,
        lasts=True,
    ),
    Check(
        name="slower_when_full",
        verdict="database_bound",
        words="queries take longer when the pool is full: more connections would add to it",
        when=f"something waits, and a query takes {_SLOWER_WHEN_FULL} as long in ticks with {_FULL * 100:g} % of the "
        f"pool in use as in ticks with {_CALM * 100:g} % of it or less",
        because="the server is saturated",
        limits=[_SLOWER_WHEN_FULL, _WAITED],
        measure=_slower_when_full,
    ),
    Check(
        name="slower_than_before",
        verdict="database_bound",
        words="queries take longer than they did before: more connections would add to it",
        when=f"something waits, and a query takes {_SLOWER_THAN_BEFORE} as long as in the time before the window",
        because="a lock, a lost index, a plan that has changed",
        limits=[_SLOWER_THAN_BEFORE, _WAITED],
        measure=_slower_than_before,
    ),
    Check(
        name="idle_holders",
        verdict="hold_too_long",
        words="connections are held while nothing is asked of the database",
        when=f"the pool is crowded, and less than {_WORKING} of the time in which connections are held is spent in "
        "queries",
        because="release connections between the queries instead",
        limits=[*CROWDED_LIMITS, _WORKING, _LASTED],
        measure=_idle_holders,
        lasts=True,
        allows_advice=True,
    ),
    Check(
        name="no_room",
        verdict="budget_bound",
        words="a larger pool is needed than the server has connections for",
        when="the pool is crowded, and needs more connections than the server can give to each process",
        because="raise the server's limits, or run fewer processes",
        limits=[*CROWDED_LIMITS, _LASTED, _NEEDED, _GIVEN],
        measure=_crowded,
        size=_no_room,
        lasts=True,
    ),
    Check(
        name="too_small",
        verdict="pool_too_small",
        words="callers wait for connections that the database could serve",
        when="the pool is crowded, and the advised size is larger",
        because="no check above has found another limit",
        limits=[*CROWDED_LIMITS, _LASTED, _LARGER],
        measure=_crowded,
        size=_too_small,
        lasts=True,
    ),
    Check(
        name="too_large",
        verdict="pool_too_large",
        words="fewer connections would do",
        when="the advised size and the most in use in seven days are both below three quarters of the limit, and "
        f"{_SPARE} or more connections would be spared",
        because="each costs the server memory, and other processes a share",
        limits=[_SMALLER, _PEAK, _SPARE],
        measure=_nothing_asked,
        size=_too_large,
    ),
)
"""Every check, in the order in which they are applied; those of the advised size are the last ones."""

OTHERWISE = Check(
    name="none",
    verdict="ok",
    words="the pool is not what limits the workers",
    when="no other check holds",
    measure=_wait_p95,
)
"""The finding if no check holds."""
