"""The benches of applications on stock arq, moved, and as an App, as small as they can be."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def run(*words: str) -> Any:
    """Run `python -m …` in the checkout; return the JSON document that it prints."""
    command = [sys.executable, "-m", *words]
    return json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=100).stdout)


@pytest.mark.slow
def test_the_rates_are_compared() -> None:
    """One round."""
    report = run("tests.bench.adoption", "--jobs", "1000", "--repeat", "1")
    forms = ["stock", "moved", "job", "share", "batch"]
    assert [*forms, *(f"{form} / stock" for form in forms[1:])] == list(report)
    assert report["moved"]["jobs_per_second"]["median"] > 0


@pytest.mark.slow
def test_what_kills_do_is_counted() -> None:
    """One of each signal, in a stream of a few seconds."""
    stream = ("--rate", "100", "--seconds", "3", "--wait", "20")
    forms = ["stock", "moved", "job", "share", "batch"]
    words = (*stream, "--kills", "1", "--terms", "1", "--forms", ",".join(forms))
    report = run("tests.bench.adoption.kills", *words)
    assert ["SIGKILL", "SIGTERM"] == list(report)
    for name, figures in report.items():
        assert forms == list(figures), name
        assert [(0, 0)] * 3 == [(figures[form]["lost"], figures[form]["doubled"]) for form in forms[2:]]
        assert 0 == figures["moved"]["lost"] == figures["moved"]["doubled_long_ended"]


@pytest.mark.slow
@pytest.mark.parametrize("application", ["contracts", "mails"])
def test_what_kills_do_to_an_application_is_counted(application: str) -> None:
    """One of each signal, in a stream of a few seconds. Moved, no contract and no mail is lost."""
    stream = ("--rate", "10", "--seconds", "6", "--wait", "30")
    report = run("tests.bench.wild", application, *stream, "--kills", "1", "--terms", "1")[application]
    assert ["stock_recovers_after_s", "stock", "moved"] == list(report)
    figures = report["moved"].get("mails", report["moved"])
    assert (60, 0) == (figures["jobs"], figures["lost"])
