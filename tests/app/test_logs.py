"""Log lines: what others wrote into one stays in it."""

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tidepool import logs

HOSTILE = "x\n2026-01-01T00:00:00Z [info     ] worker.stopped\x1b[2J\x9b1A\u2028\u202e"


def rendered(monkeypatch: pytest.MonkeyPatch, *, on_terminal: bool, **event: Any) -> str:
    """Return what is written of an event."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: on_terminal, raising=False)
    line: Any = {**event, "_record": None, "_from_structlog": True}
    for processor in logs._rendering():
        line = processor(logging.getLogger(), "warning", line)
    return line


def raised(text: str) -> ValueError:
    """Return an error with a traceback."""
    with pytest.raises(ValueError) as caught:
        raise ValueError(text)
    return caught.value


def test_a_hostile_id_stays_on_its_line_of_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """It can neither forge a line nor move the cursor, wherever it stands."""
    line = rendered(monkeypatch, on_terminal=True, event=f"job {HOSTILE} expired", job_id=HOSTILE, other=[HOSTILE])
    coloured_by_us = line.replace("\x1b[0m", "").replace("\x1b[1m", "").replace("\x1b[35m", "").replace("\x1b[36m", "")
    assert coloured_by_us.isprintable()
    assert 3 == line.count("worker.stopped")


def test_a_hostile_traceback_is_indented_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lines are needed, but none of them can pass for one of ours."""
    first, *traceback = rendered(
        monkeypatch, on_terminal=True, event="job.failed", exc_info=raised(HOSTILE)
    ).splitlines()
    assert "job.failed" in first
    assert any("worker.stopped" in line for line in traceback)
    assert all(line.startswith("    ") and line.isprintable() for line in traceback)


def test_a_hostile_event_is_one_line_of_json(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traceback included; a program reads back what was written."""
    line = rendered(monkeypatch, on_terminal=False, event="job.failed", job_id=HOSTILE, exc_info=raised(HOSTILE))
    assert line.isprintable()
    assert HOSTILE == json.loads(line)["job_id"]


class Failing:
    """Raises errors in two places, as handlers do."""

    @staticmethod
    def here(text: str) -> None:
        """Raise one."""
        raise ValueError(text)

    @staticmethod
    def there(text: str) -> None:
        """Raise the same elsewhere."""
        raise ValueError(text)


def failed(limit: logs.TracebackLimit, raising: Any, function: str = "f", text: str = "bad") -> dict[str, Any]:
    """Return what is logged of an error that *raising* raises."""
    try:
        raising(text)
    except (ValueError, KeyError) as error:
        return dict(limit(None, "error", {"event": "job.retried", "function": function, "exc_info": error}))
    raise AssertionError


def test_a_traceback_is_logged_once_a_minute_for_each_function_and_place() -> None:
    """Other errors, lines and functions have one of their own; every line has the error's text."""
    now_s = 1000.0
    limit = logs.TracebackLimit(lambda: now_s)
    assert "exc_info" in failed(limit, Failing.here)
    for text in ("bad", "worse"):
        again = failed(limit, Failing.here, text=text)
        assert "exc_info" not in again
        assert f"ValueError: {text}" == again["error"]
    for raising, function in ((Failing.there, "f"), (Failing.here, "g"), ({}.__getitem__, "f")):
        assert "exc_info" in failed(limit, raising, function)
        assert "exc_info" not in failed(limit, raising, function)
    now_s += 59.9
    assert "exc_info" not in failed(limit, Failing.here)
    now_s += 0.2
    later = failed(limit, Failing.here)
    assert "exc_info" in later
    assert 3 == later["tracebacks_left_out"]
    assert "tracebacks_left_out" not in failed(limit, Failing.here)


def test_the_places_of_a_minute_are_bounded() -> None:
    """Errors that differ each time get their line, and no traceback, when there are too many."""
    now_s = 0.0
    limit = logs.TracebackLimit(lambda: now_s)
    shown = ["exc_info" in failed(limit, Failing.here, f"f{number}") for number in range(1000)]
    assert logs._MAX_PLACES == sum(shown)
    now_s += 61
    assert "exc_info" in failed(limit, Failing.here, "new")


@pytest.mark.parametrize("given", ["error", "tuple", "true"])
def test_an_error_is_found_in_each_form(given: str) -> None:
    """Those that logging and structlog take; and one whose text cannot be read has its type."""

    class OddError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    def fail() -> None:
        raise OddError

    limit = logs.TracebackLimit()
    try:
        fail()
    except OddError as error:
        forms: dict[str, Any] = {"error": error, "tuple": (type(error), error, error.__traceback__), "true": True}
        event = limit(None, "error", {"event": "x", "exc_info": forms[given]})
    assert "OddError: (its text cannot be read)" == event["error"]


def test_long_values_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever they are; a traceback keeps its end."""
    long = "x" * 1_000_000
    line = rendered(monkeypatch, on_terminal=False, event=long, job_id=[long], exc_info=raised(f"{long}end"), n=1)
    document = json.loads(line)
    assert len(line) < 25_000
    assert "characters cut" in document["event"]
    assert document["exception"].endswith("xend")
    assert 1 == document["n"]


BROKEN = """
import logging
import structlog
from tidepool import logs
logs.configure("INFO")
ours, arqs = structlog.get_logger("tidepool.ledger.ledger"), logging.getLogger("arq.worker")
for number in range(1000):
    try:
        {}["no such field"]
    except KeyError as error:
        ours.error("job.retried", job_id=f"job-{number}", function="create_user", exc_info=error)
        arqs.error("%s failed", f"job-{number}", exc_info=error, extra={"function": "plain"})
        ours.exception("hook.failed", job_id=f"job-{number}")
"""


def test_a_handler_that_is_broken_costs_a_line_a_try() -> None:
    """Whichever logger reports it: one traceback for each, and a line with id, function and error for every try."""
    ended = subprocess.run(
        [sys.executable, "-c", BROKEN], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True
    )
    lines = [json.loads(line) for line in ended.stderr.splitlines()]
    assert 3000 == len(lines)
    assert 3 == sum("exception" in line for line in lines)
    assert {"KeyError: 'no such field'"} == {line["error"] for line in lines}
    assert {"create_user", "plain", None} == {line.get("function") for line in lines}
    assert len(ended.stderr) < 3000 * 300
