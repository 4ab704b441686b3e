"""Decides what limits the workers, from stored snapshots: the verdict of the first check that holds.

The checks of `tidepool.advice.checks` are applied in their order. The verdict also has the figures and limits of all
other checks that were made, whether these hold or not.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Self

from tidepool.advice.checks import CHECKS, OTHERWISE, Finding
from tidepool.advice.sizing import Advice
from tidepool.advice.study import Study


@dataclass(frozen=True, slots=True)
class PoolVerdict:
    """The answer to what limits a group of worker processes, with the figures that led to this verdict.

    A group are processes with the same pool size and number of callers.
    """

    processes: Sequence[str]
    since: datetime
    until: datetime
    max_size: int
    pool_limit: int
    """The connections that each process may use now."""
    callers: int
    verdict: str
    check: str
    """The name of the check that decided."""
    words: str
    findings: Sequence[Finding]
    """Those of all checks, in their order."""
    advice: Advice | None
    """Set if the figures are sound and more connections could help."""

    @property
    def finding(self) -> Finding:
        """The result of the check that decided the verdict, out of the results of all checks."""
        return next(finding for finding in self.findings if finding.check == self.check)

    @classmethod
    def of(cls, study: Study) -> Self:
        """Apply the checks to the data *study*, and return the verdict. Takes up to a second of CPU for large pools."""
        of_figures = [check for check in CHECKS if check.size is None]
        findings = [check.find(study) for check in of_figures]
        held = [check for check, finding in zip(of_figures, findings, strict=True) if finding.holds]
        advice = None
        if not held or held[0].allows_advice:
            advice = Advice.of(study.window, peak=study.peak, budget=study.budget)
        if not held:
            findings += [check.find(study, advice) for check in CHECKS if check.size is not None]
        decided = next((finding for finding in findings if finding.holds), None)
        if decided is None:
            findings.append(decided := OTHERWISE.find(study))
        newest = study.window.newest
        return cls(
            processes=sorted(reading.worker_id for reading in newest),
            since=study.since,
            until=study.until,
            max_size=newest[0].max_size,
            pool_limit=study.window.limit,
            callers=newest[0].callers,
            verdict=decided.verdict,
            check=decided.check,
            words=decided.words,
            findings=findings,
            advice=advice,
        )

    @classmethod
    async def judge(cls, studies: Sequence[Study]) -> list[Self]:
        """Return a verdict for each of *studies*, computed in a thread so that the event loop is not blocked."""
        return await asyncio.to_thread(lambda: [cls.of(study) for study in studies])
