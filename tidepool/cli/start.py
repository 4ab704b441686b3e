"""How the operators' commands start: the process is prepared before anything large is imported."""

import os
import sys
from typing import Never

from tidepool import process


def main(program: str = "tidepool", app: str | None = None) -> Never:
    """Run the operators' command that the process's arguments name; end the process with its exit status.

    *program* is its name in help texts. *app* says where the application is, as `package.module:attribute`: it brings
    its own settings and migrations. Without *app* there is an option `--app`, TIDEPOOL_APP by default.
    """
    process.prepare()

    def run() -> Never:
        from tidepool.cli.operators import run_operators_command  # noqa: PLC0415  (it takes a second)

        sys.path.append(os.getcwd())  # noqa: PTH109  (where the application is, as for the `arq` command)
        run_operators_command(program, app)

    process.run(run)
