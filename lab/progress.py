"""Prints the progress of long commands."""

import sys


def note(line: str) -> None:
    """Print *line*, the progress of a long command, on standard error if that is a terminal."""
    if sys.stderr.isatty():
        print(line, file=sys.stderr)  # noqa: T201  (it is what this module is for)
