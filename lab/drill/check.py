"""Compares the drill's log of jobs with the database, and reports jobs that are lost, doubled or wrong."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol, cast

from lab.bench.servers import connect
from lab.drill.log import Log
from tidepool.pool.connection import DirectConnection
from tidepool.storage import queries

_CHUNK = 10_000
_SQL = queries.load("check", "lab.drill")
_CHECKS = ("lost", "unknown", "doubled", "without_effect", "wrong", "left_in_transaction", "snapshot_gaps")
_NAMED = 5


class _Copying(DirectConnection, Protocol):
    async def copy_records_to_table(self, table_name: str, *, records: Iterable[tuple[object, ...]]) -> str: ...


@dataclass
class CheckResult:
    """The result of the check: how many errors of each kind were found, with the first five of each by name.

    *jobs* is the number of jobs in the log.
    """

    jobs: int
    counts: dict[str, int] = field(default_factory=dict)
    named: dict[str, list[str]] = field(default_factory=dict)

    def add(self, name: str, found: Sequence[str]) -> None:
        """Store the errors *found* of the kind *name*: their number, and the first five."""
        self.counts[name] = len(found)
        if found:
            self.named[name] = sorted(found)[:_NAMED]

    @property
    def holds(self) -> bool:
        """Whether the check found no error."""
        return not any(self.counts.values())


async def check(database: str, log: Log, *, since: datetime, longest_gap: timedelta) -> CheckResult:
    """Compare the jobs of *log* with the database when the queue is empty; return the errors found.

    Workers write snapshots at regular times. Those since *since* may have gaps of up to *longest_gap*, such as faults
    cause; longer gaps are errors.
    """
    connection = cast("_Copying", await connect(database))
    try:
        await connection.execute(_SQL["expected"])
        for chunk in _chunks(log):
            await connection.copy_records_to_table("expected", records=chunk)
        await connection.execute(_SQL["analyze"])
        verdict = CheckResult(jobs=await connection.fetchval("SELECT count(*) FROM expected"))
        for name in _CHECKS:
            arguments = [longest_gap, since] if name == "snapshot_gaps" else []
            verdict.add(name, [row[0] for row in await connection.fetch(_SQL[name], *arguments)])
        return verdict
    finally:
        await connection.close()


def _chunks(log: Log) -> Iterator[list[tuple[object, ...]]]:
    jobs = (job.expected for job in log.jobs())
    while chunk := list(itertools.islice(jobs, _CHUNK)):
        yield chunk
