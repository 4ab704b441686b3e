"""Why the workers are slow, or are not: one verdict out of stored snapshots, with the figures that led to it.

`examine` walks the checks in their order, and the first that holds names the verdict: what would make later
figures worthless comes first. Each check says which figures it looked at and where its limits are, whether it
holds or not. The limits are explained in `docs/pool.md`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from worker.health.advisor import Advice, advise
from worker.health.window import Row, Window

LEAST_SERVED = 500
LEAST_TICKS = 10
_LITTLE_OFF = 0.1
_LITTLE_FLOOR = 0.5
_LOST_SHARE = 0.5
_LEAK_TICKS = 2
_LAG_MS, _LAG_OF_HOLD = 20.0, 0.2
_CPU = 0.85
_REOPENED, _CONNECTING = 0.05, 0.2
_SLOWER = 1.5
_SLOWER_THAN_BEFORE = 2.0
_FULL, _CALM = 0.9, 0.5
_LEAST_SIDE_TICKS, _LEAST_SIDE_QUERIES = 3, 50
_LOCKED, _LOCKED_TICKS = 0.5, 3
_SATURATED, _WAITING = 0.01, 0.1
_WORKING = 0.5
_TOO_LARGE, _SPARE = 0.75, 3
CONNECT_ERRORS = ("connect_refused", "connect_starting", "connect_timeouts", "connect_errors")
REFUSALS = ("acquire_timeouts", "acquire_rejected")


@dataclass(frozen=True, slots=True)
class Evidence:
    """One figure and the limit it is held against."""

    name: str
    value: float | None
    unit: str
    limit: float | None
    """None: told for information only."""
    exceeds: str = "above"
    """On which side of the limit it counts: `above` (or at it), or `below`."""

    @property
    def counts(self) -> bool:
        """Whether it is on that side."""
        if self.value is None or self.limit is None:
            return False
        return self.value < self.limit if self.exceeds == "below" else self.value >= self.limit


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check says."""

    verdict: str
    holds: bool
    words: str
    evidence: list[Evidence]


@dataclass(frozen=True, slots=True)
class Study:
    """All that there is to judge a group of processes by.

    *before* is as long a time before the window, *database* the rows of `db_snapshots` of the window, *peak* the
    most in use in one process within the last days, *budget* what the server can give to each process.
    """

    window: Window
    before: Window
    database: Sequence[Row]
    since: datetime
    until: datetime
    peak: int
    budget: int | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer: its name, the finding that gave it, all findings in their order, and the advice if there is one."""

    name: str
    finding: Finding
    findings: list[Finding]
    advice: Advice | None


def examine(study: Study) -> Verdict:
    """Return the verdict on a group. There is advice where its figures are sound and more connections could help."""
    findings = [check(study) for check in _BEFORE_ADVICE]
    first = next((finding for finding in findings if finding.holds), None)
    if first is not None and first.verdict != "hold_too_long":
        return Verdict(first.verdict, first, findings, None)
    advice = advise(study.window, peak=study.peak, budget=study.budget)
    if first is None:
        findings += [check(study, advice) for check in _OF_THE_SIZE]
        first = next((finding for finding in findings if finding.holds), None)
    if first is None:
        first = _fine(study, advice)
        findings.append(first)
    return Verdict(first.verdict, first, findings, advice)


def _too_little(study: Study) -> Finding:
    evidence = [Evidence("ticks", len({tick.now["tick"] for tick in study.window.ticks}), "", LEAST_TICKS, "below")]
    return _any("insufficient_data", "there are too few snapshots to tell", evidence)


def _incident(study: Study) -> Finding:
    window = study.window
    lost = max((tick.gain("closed_lost_idle") + tick.gain("closed_lost_in_use") for tick in window.ticks), default=0)
    evidence = [
        Evidence("restarts of the database seen", window.total("database_restarts"), "", 1),
        Evidence("connections not opened", window.total(*CONNECT_ERRORS), "", 1),
        Evidence("connections lost in a tick", lost, "", max(2, _LOST_SHARE * _limit(window))),
    ]
    return _any("incident", "the database was away or restarted: look at a time without that", evidence)


def _too_many_clients(study: Study) -> Finding:
    evidence = [Evidence("connections refused as too many", study.window.total("connect_too_many"), "", 1)]
    return _any("budget_bound", "the server has no more connections to give", evidence)


def _leak(study: Study) -> Finding:
    overdue = sum(bool(tick.now["overdue_holders"]) for tick in study.window.ticks)
    evidence = [
        Evidence("ticks with an overdue holder", overdue, "", _LEAK_TICKS),
        Evidence("longest hold", study.window.peak("oldest_hold_us") / 1e6, "s", None),
    ]
    return _any("leak", "somebody keeps a connection and does not give it back; see the events", evidence)


def _locked(study: Study) -> Finding:
    """Before the number of uses is looked at: where all wait for a lock there are none."""
    locked = sum(row["active"] > 0 and row["waiting_lock"] >= _LOCKED * row["active"] for row in study.database)
    evidence = [Evidence("ticks with half waiting for locks", locked, "", _LOCKED_TICKS)]
    return _any("database_bound", "transactions wait for each other's locks in the database", evidence)


def _too_few_uses(study: Study) -> Finding:
    window = study.window
    ended = window.total("hold_us_sum", "holding_us")  # of what has ended, and of what has not
    gap = abs(ended - window.total("in_use_us")) / max(window.us, 1)
    evidence = [
        Evidence("uses", window.served, "", LEAST_SERVED, "below"),
        Evidence(
            "rate x hold against in use", gap, "",
            max(_LITTLE_OFF * max(window.total("in_use_us") / max(window.us, 1), _LITTLE_FLOOR), 1e-9),
        ),
    ]  # fmt: skip
    return _any(
        "insufficient_data", "the pool was used too little to tell, or the figures contradict each other", evidence
    )


def _loop_bound(study: Study) -> Finding:
    window = study.window
    hold_ms = window.quantile_ms("hold_hist", 0.5) or 0.0
    evidence = [
        Evidence("loop lag p99", window.quantile_ms("loop_lag_hist", 0.99), "ms", max(_LAG_MS, _LAG_OF_HOLD * hold_ms)),
        Evidence("CPU of the process", window.total("cpu_us") / max(window.us, 1), "share", _CPU),
    ]
    return _any(
        "loop_bound", "the worker's own process is the limit: its event loop is blocked or its core is full", evidence
    )


def _churn(study: Study) -> Finding:
    """Before the event loop: opening many connections at once blocks it, and a blocked loop opens none."""
    window = study.window
    connecting = window.total("connect_us_sum")
    spent = connecting + window.total("wait_us_sum", "hold_us_sum")
    evidence = [
        Evidence(
            "connections opened per use", _ratio(window.total("connections_opened"), window.served), "", _REOPENED
        ),
        Evidence("time spent connecting", _ratio(connecting, spent), "share", _CONNECTING),
    ]
    return _all("churn", "connections are opened again and again instead of being kept", evidence)


def _slow_database(study: Study) -> Finding:
    around = Window([*study.before.ticks, *study.window.ticks])
    full, calm = around.only(lambda tick: tick.busy >= _FULL), around.only(lambda tick: tick.busy <= _CALM)
    evidence = [
        Evidence("queries, full against calm ticks", _slower(full, calm), "x", _SLOWER),
        Evidence("queries, against the time before", _slower(study.window, study.before), "x", _SLOWER_THAN_BEFORE),
    ]
    return _any(
        "database_bound", "queries take longer than they do at other times: more connections would add to it", evidence
    )


def _hold_too_long(study: Study) -> Finding:
    window = study.window
    working = _ratio(window.total("query_us_sum"), window.total("in_use_us"))
    evidence = [*_crowded(window), Evidence("share of holds spent in queries", working, "share", _WORKING, "below")]
    return _all("hold_too_long", "connections are held while nothing is asked of the database", evidence)


def _budget_bound(study: Study, advice: Advice) -> Finding:
    evidence = [
        *_crowded(study.window),
        Evidence("size needed", advice.demand, "", advice.limit + 1),
        Evidence("most the server gives to each", study.budget, "", advice.demand, "below"),
    ]
    return _all("budget_bound", "a larger pool is needed than the server has connections for", evidence)


def _too_small(study: Study, advice: Advice) -> Finding:
    evidence = [*_crowded(study.window), Evidence("size advised", advice.size, "", advice.limit + 1)]
    return _all("pool_too_small", "callers wait for connections that the database could serve", evidence)


def _too_large(study: Study, advice: Advice) -> Finding:
    evidence = [
        Evidence("size advised", advice.size, "", _TOO_LARGE * advice.limit, "below"),
        Evidence("most in use at a time", study.peak, "", _TOO_LARGE * advice.limit, "below"),
        Evidence("connections to spare", advice.limit - advice.size, "", _SPARE),
    ]
    return _all("pool_too_large", "fewer connections would do", evidence)


def _fine(study: Study, advice: Advice) -> Finding:
    waits = Evidence("wait p95", study.window.quantile_ms("wait_hist", 0.95), "ms", advice.target_ms)
    return Finding("ok", holds=True, words="the pool is not what limits the workers", evidence=[waits])


_BEFORE_ADVICE: tuple[Callable[[Study], Finding], ...] = (
    _too_little, _incident, _too_many_clients, _leak, _locked, _too_few_uses, _churn, _loop_bound, _slow_database,
    _hold_too_long,
)  # fmt: skip
_OF_THE_SIZE: tuple[Callable[[Study, Advice], Finding], ...] = (_budget_bound, _too_small, _too_large)


def _any(verdict: str, words: str, evidence: list[Evidence]) -> Finding:
    return Finding(verdict, any(figure.counts for figure in evidence), words, evidence)


def _all(verdict: str, words: str, evidence: list[Evidence]) -> Finding:
    return Finding(verdict, all(figure.counts for figure in evidence), words, evidence)


def _crowded(window: Window) -> list[Evidence]:
    """Return the figures of a pool that its callers wait for."""
    waiting = window.total("waiting_us")
    return [
        Evidence("time with a queue", window.total("saturated_us") / max(window.us, 1), "share", _SATURATED),
        Evidence(
            "waiting, of waiting and holding", _ratio(waiting, waiting + window.total("in_use_us")), "share", _WAITING
        ),
    ]


def _slower(one: Window, other: Window) -> float | None:
    """Return how many times as long queries took in *one*; None where either has too few to tell."""
    enough = all(
        len(side.ticks) >= _LEAST_SIDE_TICKS and side.total("queries") >= _LEAST_SIDE_QUERIES for side in (one, other)
    )
    return _ratio(one.query_ms, other.query_ms) if enough else None


def _limit(window: Window) -> int:
    return window.limit if window.ticks else 0


def _ratio(one: float | None, other: float | None) -> float | None:
    return None if one is None or not other else one / other
