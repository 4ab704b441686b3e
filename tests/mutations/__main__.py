"""Try every mutation: `uv run python -m tests.mutations [WORDS…]`, all of them or those whose names have the words.

The checkout is copied to a temporary folder, one fault at a time is put in there, and its test alone is run. Exit
status 0: every test turned red; 1: one stayed green, or could not be run, or a mutation's text was not found once;
2: no mutation has these words, or without any fault a named test is red already.
"""

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.mutations.catalogue import MUTATIONS
from tests.mutations.mutation import ROOT, Mutation

_NOT_COPIED = shutil.ignore_patterns(".*", "__pycache__", "uv.lock")
_PYTEST = (
    sys.executable,
    "-m",
    "pytest",
    "-q",
    "-x",
    "-p",
    "no:cacheprovider",
    "-p",
    "no:randomly",
    "-o",
    "timeout=30",
)
_PASSED, _FAILED = 0, 1


def main(words: Sequence[str]) -> int:
    """Try the mutations that are asked for; returns the exit status."""
    asked = [mutation for mutation in MUTATIONS if all(word in mutation.what for word in words)]
    if not asked:
        print(f"no mutation has these words: {' '.join(words)}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="mutations-") as scratch:
        checkout = Path(scratch) / "checkout"
        shutil.copytree(ROOT, checkout, ignore=_NOT_COPIED)
        control = _run(checkout, *dict.fromkeys(mutation.test_id for mutation in asked))
        if control.returncode != _PASSED:
            print(control.stdout, "without any mutation a test is red already: mend that first", file=sys.stderr)
            return 2
        verdicts = [_try(mutation, checkout) for mutation in asked]
    print(f"{verdicts.count('red')} of {len(verdicts)} red")
    return 0 if verdicts.count("red") == len(verdicts) else 1


def _try(mutation: Mutation, checkout: Path) -> str:
    """Put the fault in, run its test, take the fault out; prints a line of the table and returns the verdict."""
    path, begun_s = checkout / mutation.path.relative_to(ROOT), time.monotonic()
    sound = path.read_text("utf-8")
    try:
        path.write_text(mutation.faulty_text(), "utf-8")
        status = _run(checkout, mutation.test_id).returncode
        verdict = {_PASSED: "STILL GREEN", _FAILED: "red"}.get(status, f"NOT RUN: pytest ended with {status}")
    except ValueError as error:
        verdict = f"NOT APPLIED: {error}"
    finally:
        path.write_text(sound, "utf-8")
    print(f"{verdict:12} {time.monotonic() - begun_s:5.1f} s  {mutation.what:57} {mutation.test}", flush=True)
    return verdict


def _run(checkout: Path, *tests: str) -> subprocess.CompletedProcess[str]:
    """Run pytest on *tests* to its end."""
    return subprocess.run([*_PYTEST, *tests], cwd=checkout, capture_output=True, text=True, check=False)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
