"""Try every mutation: `uv run python -m tests.mutations [WORDS…]`, all of them or those whose names have the words.

The checkout is copied to a temporary folder, one fault at a time is put in there, and its test alone is run. Exit
status 0: every test turned red; 1: one stayed green, or could not be run, or a mutation's text was not found once;
2: no mutation has these words, or without any fault a named test is red already.
"""

import argparse
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


def _words() -> list[str]:
    """Return the words on the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutations", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "words",
        nargs="*",
        metavar="WORDS",
        help="words that the name of a mutation must all contain, for it to be tried (default: try all mutations)",
    )
    words: list[str] = parser.parse_args().words
    return words


def main(words: Sequence[str]) -> int:
    """Try the mutations that are asked for; returns the exit status."""
    asked = [mutation for mutation in MUTATIONS if all(word in mutation.what for word in words)]
    if not asked:
        print(f"no mutation has these words: {' '.join(words)}", file=sys.stderr)
        return 2
    return attempt(asked)


def attempt(mutations: Sequence[Mutation]) -> int:
    """Try these mutations; returns the exit status."""
    with tempfile.TemporaryDirectory(prefix="mutations-") as scratch:
        checkout = Path(scratch) / "checkout"
        shutil.copytree(ROOT, checkout, ignore=_NOT_COPIED)
        faulty_texts = [_faulty_text(mutation) for mutation in mutations]  # now: the checkout may be edited meanwhile
        control = _run(checkout, *dict.fromkeys(mutation.test_id for mutation in mutations))
        if control.returncode != _PASSED:
            print(control.stdout, "without any mutation a test is red already: mend that first", file=sys.stderr)
            return 2
        verdicts = [_try(mutation, text, checkout) for mutation, text in zip(mutations, faulty_texts, strict=True)]
    print(f"{verdicts.count('red')} of {len(verdicts)} red")
    return 0 if verdicts.count("red") == len(verdicts) else 1


def _faulty_text(mutation: Mutation) -> str | ValueError:
    """Return the text of the file with the fault in it, or why there is none."""
    try:
        return mutation.faulty_text()
    except ValueError as error:
        return error


def _try(mutation: Mutation, faulty_text: str | ValueError, checkout: Path) -> str:
    """Put the fault in, run its test, take the fault out; prints a line of the table and returns the verdict."""
    begun_s = time.monotonic()
    if isinstance(faulty_text, ValueError):
        verdict = f"NOT APPLIED: {faulty_text}"
    else:
        path = checkout / mutation.path.relative_to(ROOT)
        sound = path.read_text("utf-8")
        path.write_text(faulty_text, "utf-8")
        status = _run(checkout, mutation.test_id).returncode
        verdict = {_PASSED: "STILL GREEN", _FAILED: "red"}.get(status, f"NOT RUN: pytest ended with {status}")
        path.write_text(sound, "utf-8")
    print(f"{verdict:12} {time.monotonic() - begun_s:5.1f} s  {mutation.what:57} {mutation.test}", flush=True)
    return verdict


def _run(checkout: Path, *tests: str) -> subprocess.CompletedProcess[str]:
    """Run pytest on *tests* to its end."""
    return subprocess.run([*_PYTEST, *tests], cwd=checkout, capture_output=True, text=True, check=False)


if __name__ == "__main__":
    sys.exit(main(_words()))
