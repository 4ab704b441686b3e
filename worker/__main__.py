"""The command line `python -m worker`: commands for operators of the service.

The commands of the laboratory are under `python -m lab` now. For one release they can still be called from here.
"""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

if not __package__:  # a directory that is run comes first in the path of modules, which has to be its parent
    sys.path[0] = str(Path(__file__).parents[1])

from tidepool.cli import main

_MOVED = ("bench", "drill", "tune", "pool-test", "load-test", "layouts")
"""Names of the commands that moved to `python -m lab`. For one release, `python -m worker` passes them on to it."""


def _hand_on(words: list[str]) -> None:
    """Replace this process by `python -m lab` with the same arguments.

    Prints the new command line first. Exits with status 2 if the package `lab` is not installed.
    """
    print(f"python -m worker {words[0]} has moved: python -m lab {words[0]}", file=sys.stderr)
    if find_spec("lab") is None:
        print("error: the laboratory is not installed here", file=sys.stderr)
        sys.exit(2)
    os.execv(  # noqa: S606  (the same process goes on as the command that is meant)
        sys.executable, [sys.executable, "-m", "lab", *words]
    )


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in _MOVED:
        _hand_on(sys.argv[1:])
    main("python -m worker", "worker:app")
