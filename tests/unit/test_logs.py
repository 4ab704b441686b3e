"""Log lines: what others wrote into one stays in it."""

import json
import logging
import sys
from typing import Any

import pytest

from worker import logs

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
