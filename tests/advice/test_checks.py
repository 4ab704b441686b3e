"""The table of checks: names, reasons, and the documentation that is generated from it."""

import verdict_table

from tidepool.advice.checks import CHECKS, OTHERWISE


def test_the_documentation_is_that_of_the_checks() -> None:
    """Otherwise a limit was changed and the page not: write it anew with `uv run python tests/verdict_table.py`."""
    text = verdict_table.DOCUMENT.read_text("utf-8")
    assert verdict_table.generated(text) == text, "run: uv run python tests/verdict_table.py"


def test_each_check_has_a_name_of_its_own() -> None:
    """A verdict may be that of several checks; the check that decided is known by its name."""
    names = [check.name for check in (*CHECKS, OTHERWISE)]
    assert len(set(names)) == len(names)


def test_each_check_says_when_it_holds_and_each_limit_why_it_is_there() -> None:
    """In words that the documentation and the operator get."""
    for check in CHECKS:
        assert all((check.words, check.when, check.because, check.limits)), check.name
        assert all(limit.figure and limit.why for limit in check.limits), check.name


def test_checks_of_the_advised_size_come_last() -> None:
    """They need the advice, which is made only if no check before them speaks against it."""
    of_size = [check.size is not None for check in CHECKS]
    assert sorted(of_size) == of_size
