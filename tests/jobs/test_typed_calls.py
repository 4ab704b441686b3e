"""A wrong call of a job type is an error of type checkers: what they say of `typed_calls.py`."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

CALLS = Path(__file__).with_name("typed_calls.py")
ROOT = Path(__file__).parents[2]
CHECKERS = {
    "pyright": ("-m", "basedpyright", "--level", "error"),
    "mypy": ("-m", "mypy", "--follow-imports", "silent", "--ignore-missing-imports", "--cache-dir"),
}


@pytest.mark.parametrize("checker", CHECKERS)
def test_exactly_the_wrong_calls_are_errors(checker: str, tmp_path: Path) -> None:
    """Arguments, their names and types, and the types of results."""
    more = (str(tmp_path),) if checker == "mypy" else ()
    command = (sys.executable, *CHECKERS[checker], *more, str(CALLS))
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout
    found = {int(number) for number in re.findall(r"typed_calls\.py:(\d+)(?::\d+)?(?: -|:) error", said)}
    marked = {number for number, line in enumerate(CALLS.read_text().splitlines(), 1) if "# wrong" in line}
    assert marked == found, said
