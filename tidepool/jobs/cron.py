"""Defines when a job runs again and again: a cron expression in a time zone."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from tidepool.jobs.job_type import AnyJobType
from tidepool.jobs.submission import Submission


def zone_of(name: str) -> ZoneInfo:
    """Return the time zone of this name, such as `Europe/Berlin`. Raises `ValueError` if the system knows none."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"no time zone is called {name!r} on this system; the package tzdata has them all") from None


@dataclass(frozen=True, slots=True)
class Cron:
    """A job type whose jobs are enqueued by the workers, at the ticks of *expression* in the time zone *zone*.

    See `App.cron`. Raises `ValueError` if the expression is not valid.
    """

    job_type: AnyJobType
    expression: str
    zone: ZoneInfo
    catch_up: bool
    """Whether ticks are made up for that were missed because no worker ran."""

    def __post_init__(self) -> None:
        try:
            self._ticks(datetime.now(UTC))
        except CronSimError as error:
            raise ValueError(f"the cron expression {self.expression!r} is not valid: {error}") from None

    def after(self, at: datetime) -> datetime | None:
        """Return the first tick after *at*, in UTC; None if there is none in the next 50 years."""
        ticks: Iterator[datetime] = (tick.astimezone(UTC) for tick in self._ticks(at))
        return next((tick for tick in ticks if tick > at), None)  # the first may be earlier in an hour that is repeated

    def submission_at(self, tick: datetime) -> Submission:
        """Return the job of *tick*, which is in UTC and becomes a part of the job's id."""
        options = self.job_type.options(id=f"{self.id_prefix}{tick.isoformat()}", defer=tick, identity=True)
        return options.call().submission

    @property
    def id_prefix(self) -> str:
        """What the ids of the jobs begin with. A tick in the form `2026-12-01T03:00:00+00:00` follows."""
        return f"cron:{self.job_type.name}:"

    def _ticks(self, at: datetime) -> CronSim:
        return CronSim(self.expression, at.astimezone(self.zone))
