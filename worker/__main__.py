"""`python -m worker`: the operators' commands, and where the laboratory's have gone."""

from tidepool import process

if __name__ == "__main__":
    process.prepare()  # before the imports below, which take a second

import os
import sys
from importlib.util import find_spec

from tidepool.cli.main import main as operators_commands
from worker import app

MOVED = ("bench", "drill", "tune", "pool-test", "load-test", "layouts")
"""Commands that are `python -m lab …` now. They are handed on for one release."""


def main() -> None:
    """Run the command that the command line names."""
    words = sys.argv[1:]
    if not words or words[0] not in MOVED:
        operators_commands(app)
        return
    print(f"python -m worker {words[0]} has moved: python -m lab {words[0]}", file=sys.stderr)
    if find_spec("lab") is None:
        print("error: the laboratory is not installed here", file=sys.stderr)
        sys.exit(process.ERROR)
    os.execv(  # noqa: S606  (the same process goes on as the command that is meant)
        sys.executable, [sys.executable, "-m", "lab", *words]
    )


if __name__ == "__main__":
    process.run(main)
