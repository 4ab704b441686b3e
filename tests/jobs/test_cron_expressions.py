"""The ticks of cron expressions, by a fixed clock: five and six fields, time zones, and changes of the clock."""

from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from tidepool import App, Command, Job, Transaction
from tidepool.jobs.cron import Cron, zone_of


class View(Command):
    """The argument of a batch's job."""

    page: int = 1


async def tick(tx: Transaction, number: int = 7) -> None:
    """Do nothing."""


def ticks(expression: str, start: str, end: str, zone: str = "Europe/Berlin") -> list[str]:
    """Return the ticks after *start* and up to *end*, which are in UTC, as times of day in UTC."""
    cron = Cron(App().job(tick), expression, zone_of(zone), catch_up=False)
    found, at = [], datetime.fromisoformat(start).replace(tzinfo=UTC)
    while (at := cron.after(at) or datetime.max.replace(tzinfo=UTC)) <= datetime.fromisoformat(end).replace(tzinfo=UTC):
        found.append(at.strftime("%H:%M:%S" if len(expression.split()) > 5 else "%H:%M"))
    return found


SPRING = ("2026-03-29T00:00", "2026-03-29T03:00")
"""At 01:00 UTC, which is 02:00 in Berlin, it becomes 03:00 there."""
AUTUMN = ("2026-10-24T23:00", "2026-10-25T03:00")
"""From 00:00 UTC it is 02:00 in Berlin, and again from 01:00 UTC."""


@pytest.mark.parametrize(
    ("expression", "span", "expected"),
    [
        ("30 2 * * *", SPRING, ["01:00"]),  # the hour is left out: right after the change
        ("30 2 * * *", AUTUMN, ["00:30"]),  # once, the first time
        ("30 * * * *", SPRING, ["00:30", "01:30", "02:30"]),
        ("30 * * * *", AUTUMN, ["23:30", "00:30", "01:30", "02:30"]),
        ("*/30 2 * * *", SPRING, []),
        ("*/30 2 * * *", AUTUMN, ["00:00", "00:30", "01:00", "01:30"]),
        ("0 30 2 * * *", SPRING, []),
        ("0 30 2 * * *", AUTUMN, ["00:30:00", "01:30:00"]),
        ("*/20 59 1 * * *", SPRING, ["00:59:00", "00:59:20", "00:59:40"]),
    ],
)
def test_changes_of_the_clock(expression: str, span: tuple[str, str], expected: list[str]) -> None:
    """As the documentation of `App.cron` says."""
    assert expected == ticks(expression, *span)


def test_no_tick_is_in_the_past_in_an_hour_that_is_repeated() -> None:
    """At 02:30 for the second time, 02:45 is over for an expression with a fixed hour."""
    assert [] == ticks("45 2 * * *", "2026-10-25T01:30", "2026-10-25T03:00")


@pytest.mark.parametrize(("zone", "expected"), [("UTC", ["09:00"]), ("Asia/Tokyo", ["00:00"])])
def test_a_time_zone_moves_the_ticks(zone: str, expected: list[str]) -> None:
    """They are in UTC in a job's id."""
    assert expected == ticks("0 9 * * MON-FRI", "2026-11-30T12:00", "2026-12-01T12:00", zone)


@pytest.mark.parametrize("expression", ["", "* * * *", "* * * * * * *", "61 * * * *", "@daily", "0 0 31 2 *"])
def test_an_expression_that_is_not_valid_is_refused_when_it_is_declared(expression: str) -> None:
    """With the expression."""
    app = App()
    with pytest.raises(ValueError, match=r"^the cron expression '"):
        app.cron(expression)(app.job(tick))
    assert [] == app.crons


def test_an_unknown_time_zone_is_refused() -> None:
    """With its name."""
    app = App()
    with pytest.raises(ValueError, match=r"^no time zone is called 'Mars/Base'"):
        app.cron("* * * * *", timezone="Mars/Base")(app.job(tick))


def test_a_job_that_needs_arguments_has_no_cron_expression() -> None:
    """A tick has none."""
    app = App()

    async def needs(tx: Transaction, number: int) -> None: ...

    async def batch(tx: Transaction, jobs: Sequence[Job[View]]) -> list[None]:
        return [None for _ in jobs]

    with pytest.raises(TypeError, match="number"):
        app.cron("* * * * *")(app.job(needs))
    with pytest.raises(TypeError, match="a batch's job needs an argument"):
        app.cron("* * * * *")(app.batch(batch))
    assert [] == app.crons


def test_the_id_of_a_ticks_job_is_its_time() -> None:
    """In UTC, and it is the job's identity."""
    cron = Cron(App().job(tick), "0 4 * * *", zone_of("Europe/Berlin"), catch_up=False)
    at = cron.after(datetime(2099, 12, 1, tzinfo=UTC))
    assert at is not None
    job = cron.submission_at(at)
    assert ("cron:tick:2099-12-01T03:00:00+00:00", True, {}) == (job.id, job.identity, job.fields)
    assert int(at.timestamp() * 1000) == job.due_ms
