"""Why the workers are slow, or are not: one verdict out of stored snapshots, with the figures that led to it.

`examine` walks the checks in their order, and the first that holds names the verdict: what would make later
figures worthless comes first. Each check says which figures it looked at and where its limits are, whether it
holds or not. The limits are explained in `docs/pool.md`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby

from tidepool.advice.crowding import BUSY, Evidence, busy, crowding, is_crowded, ratio, waited_for
from tidepool.advice.sizing import Advice, advise
from tidepool.advice.window import Row, Window

LEAST_SERVED = 500
_LEAST_SERVED_BUSY = 30
"""Enough of a pool that is in use nearly all the time: long holds are few."""
LEAST_TICKS = 10
_LITTLE_OFF = 0.1
_LITTLE_FLOOR = 0.5
_LOST_SHARE = 0.5
_LEAK_TICKS = 2
_LAG_MS, _LAG_IDLE_MS, _LAG_OF_HOLD = 20.0, 50.0, 0.2
"""A loop that is blocked for longer is at fault even where nothing waits."""
_CPU = 0.85
_REOPENED, _CONNECTING = 0.05, 0.2
_SLOWER = 1.5
_SLOWER_THAN_BEFORE = 2.0
_FULL, _CALM = 0.9, 0.5
_LEAST_SIDE_TICKS, _LEAST_SIDE_QUERIES = 3, 50
_LOCKED, _LOCKED_TICKS = 0.5, 3
_WORKING = 0.5
_COMMIT_MS, _COMMITTING = 20.0, 0.5
_PARTS, _PARTS_IN_A_ROW = 5, 2
"""What holds on average has to hold in so many parts of the time that follow each other, too."""
_TOO_LARGE, _SPARE = 0.75, 3
CONNECT_ERRORS = ("connect_refused", "connect_starting", "connect_timeouts", "connect_errors")
REFUSALS = ("acquire_timeouts", "acquire_rejected")


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
    least = LEAST_SERVED if (busy(window) or 0.0) < BUSY else _LEAST_SERVED_BUSY
    evidence = [
        Evidence("uses", window.served, "", least, "below"),
        Evidence(
            "rate x hold against in use", gap, "",
            max(_LITTLE_OFF * max(window.total("in_use_us") / max(window.us, 1), _LITTLE_FLOOR), 1e-9),
        ),
    ]  # fmt: skip
    return _any(
        "insufficient_data", "the pool was used too little to tell, or the figures contradict each other", evidence
    )


def _loop_bound(study: Study) -> Finding:
    """Count as blocked only what our own code did, and look at the CPU only where something waits for it."""

    def figures(window: Window) -> list[Evidence]:
        hold_ms = window.quantile_ms("hold_hist", 0.5) or 0.0
        waiting = waited_for(window)
        least_ms = _LAG_MS if waiting.counts else _LAG_IDLE_MS
        wanted = window.total("cpu_us", "cpu_wait_us") / max(window.us, 1)
        blocked_ms = window.quantile_ms("loop_block_hist", 0.99)
        return [
            Evidence("loop blocked by its own code, p99", blocked_ms, "ms", max(least_ms, _LAG_OF_HOLD * hold_ms)),
            Evidence("CPU that the process used or waited for", wanted, "share", _CPU),
            waiting,
        ]

    def holds(evidence: list[Evidence]) -> bool:
        blocked, cpu, waiting = (one.counts for one in evidence)
        return blocked or (cpu and waiting)

    words = "the worker's own process is the limit: its event loop is blocked, or it wants more CPU than it gets"
    return _lasting("loop_bound", words, study.window, figures, holds)


def _churn(study: Study) -> Finding:
    """Before the event loop: opening many connections at once blocks it, and a blocked loop opens none."""
    window = study.window
    connecting = window.total("connect_us_sum")
    spent = connecting + window.total("wait_us_sum", "hold_us_sum")
    evidence = [
        Evidence("connections opened per use", ratio(window.total("connections_opened"), window.served), "", _REOPENED),
        Evidence("time spent connecting", ratio(connecting, spent), "share", _CONNECTING),
    ]
    return _all("churn", "connections are opened again and again instead of being kept", evidence)


def _slow_commits(study: Study) -> Finding:
    def figures(window: Window) -> list[Evidence]:
        commits = window.total("commits")
        return [
            Evidence(
                "COMMIT, mean", window.total("commit_us_sum") / commits / 1000 if commits else None, "ms", _COMMIT_MS
            ),
            Evidence(
                "share of holds spent in COMMIT",
                ratio(window.total("commit_us_sum"), window.total("in_use_us")), "share", _COMMITTING,
            ),
            waited_for(window),
        ]  # fmt: skip

    words = "transactions spend most of their time in COMMIT: in the server's disk, replicas or deferred constraints"
    return _lasting("database_bound", words, study.window, figures, _all_count)


def _slow_database(study: Study) -> Finding:
    around = Window([*study.before.ticks, *study.window.ticks])
    full, calm = around.only(lambda tick: tick.busy >= _FULL), around.only(lambda tick: tick.busy <= _CALM)
    evidence = [
        Evidence("queries, full against calm ticks", _slower(full, calm), "x", _SLOWER),
        Evidence("queries, against the time before", _slower(study.window, study.before), "x", _SLOWER_THAN_BEFORE),
        waited_for(study.window),
    ]
    *slower, waiting = (one.counts for one in evidence)
    words = "queries take longer than they do at other times: more connections would add to it"
    return Finding("database_bound", any(slower) and waiting, words, evidence)


def _hold_too_long(study: Study) -> Finding:
    def figures(window: Window) -> list[Evidence]:
        working = ratio(window.total("query_us_sum"), window.total("in_use_us"))
        limit = Evidence("share of holds spent in queries", working, "share", _WORKING, "below")
        return [*crowding(window), limit]

    def holds(evidence: list[Evidence]) -> bool:
        return is_crowded(evidence) and evidence[-1].counts

    words = "connections are held while nothing is asked of the database"
    return _lasting("hold_too_long", words, study.window, figures, holds)


def _budget_bound(study: Study, advice: Advice) -> Finding:
    evidence = [
        Evidence("size needed", advice.demand, "", advice.limit + 1),
        Evidence("most the server gives to each", study.budget, "", advice.demand, "below"),
    ]
    words = "a larger pool is needed than the server has connections for"
    return _crowded_and("budget_bound", words, study.window, evidence)


def _too_small(study: Study, advice: Advice) -> Finding:
    evidence = [Evidence("size advised", advice.size, "", advice.limit + 1)]
    words = "callers wait for connections that the database could serve"
    return _crowded_and("pool_too_small", words, study.window, evidence)


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
    _too_little, _incident, _too_many_clients, _leak, _locked, _too_few_uses, _churn, _loop_bound, _slow_commits,
    _slow_database, _hold_too_long,
)  # fmt: skip
_OF_THE_SIZE: tuple[Callable[[Study, Advice], Finding], ...] = (_budget_bound, _too_small, _too_large)


def _any(verdict: str, words: str, evidence: list[Evidence]) -> Finding:
    return Finding(verdict, any(figure.counts for figure in evidence), words, evidence)


def _all(verdict: str, words: str, evidence: list[Evidence]) -> Finding:
    return Finding(verdict, all(figure.counts for figure in evidence), words, evidence)


def _all_count(evidence: list[Evidence]) -> bool:
    return all(figure.counts for figure in evidence)


def _lasting(
    verdict: str,
    words: str,
    window: Window,
    figures: Callable[[Window], list[Evidence]],
    holds: Callable[[list[Evidence]], bool],
) -> Finding:
    """Return a finding that holds in the whole window, and in parts of it that follow each other."""
    evidence = figures(window)
    if not holds(evidence):
        return Finding(verdict, holds=False, words=words, evidence=evidence)
    in_parts = [bool(part.ticks) and holds(figures(part)) for part in window.parts(_PARTS)]
    longest = max(sum(1 for _ in run) if held else 0 for held, run in groupby(in_parts))
    lasted = Evidence(f"in a row, of {_PARTS} parts of the time", longest, "", _PARTS_IN_A_ROW)
    return Finding(verdict, lasted.counts, words, [*evidence, lasted])


def _crowded_and(verdict: str, words: str, window: Window, others: list[Evidence]) -> Finding:
    """Return a finding that holds where the pool has been crowded for some time, and each of *others* counts."""
    crowded = _lasting(verdict, words, window, crowding, is_crowded)
    return Finding(verdict, crowded.holds and _all_count(others), words, [*crowded.evidence, *others])


def _slower(one: Window, other: Window) -> float | None:
    """Return how many times as long queries took in *one*; None where either has too few to tell."""
    enough = all(
        len(side.ticks) >= _LEAST_SIDE_TICKS and side.total("queries") >= _LEAST_SIDE_QUERIES for side in (one, other)
    )
    return ratio(one.query_ms, other.query_ms) if enough else None


def _limit(window: Window) -> int:
    return window.limit if window.ticks else 0
