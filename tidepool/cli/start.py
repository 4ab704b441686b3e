"""The entry point of the command `tidepool`: it prepares the process before anything large is imported."""

import os
import sys
from typing import Never

from tidepool import process


def main(program: str = "tidepool", app: str | None = None) -> Never:
    """Run the operators' command that the process's arguments name, and end the process with its exit status.

    *program* is the name of the program in help texts. *app* is where the application is, as
    `package.module:attribute`; the application brings its own settings and migrations. Without *app* the user can give
    it as the option `--app`, whose default is the environment variable TIDEPOOL_APP.
    """
    process.prepare()

    def run() -> Never:
        from tidepool.cli.operators import run_operators_command  # noqa: PLC0415  (it takes a second)

        sys.path.append(os.getcwd())  # noqa: PTH109  (where the application is, as for the `arq` command)
        run_operators_command(program, app)

    process.run(run)
