"""The workers of a run, without starting any that works."""

import os
import time
from pathlib import Path
from unittest.mock import AsyncMock

import pytest

from producer import fleet


def test_logs_of_more_than_a_week_ago_are_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A nightly run would leave a file for each worker for ever; files that are no worker's log stay."""
    monkeypatch.setattr(fleet, "_COMMAND", ["true"])
    for name, days in (("worker-1-0.log", 8), ("worker-2-0.log", 6), ("notes.log", 8)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (then := time.time() - days * 86_400, then))
    with fleet.Fleet(1, tmp_path, AsyncMock()):
        pass
    own = f"worker-{os.getpid()}-0.log"
    assert {"worker-2-0.log", "notes.log", own} == {path.name for path in tmp_path.iterdir()}
