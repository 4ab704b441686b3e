"""What the tests of the connection budget share."""

import pytest


@pytest.fixture
def quick_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the beats of the connection budget follow each other at once."""
    monkeypatch.setattr("tidepool.fleet.budget.BEAT_S", 0.001)
