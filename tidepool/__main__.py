"""The command `tidepool`, as `python -m tidepool`, and as `uv run tidepool` in a checkout, which runs the directory."""

import sys
from pathlib import Path

if not __package__:  # a directory that is run comes first in the path of modules, which has to be its parent
    sys.path[0] = str(Path(__file__).parents[1])

from tidepool.cli import main

if __name__ == "__main__":
    main()
