"""The entry point of the command `tidepool`: it prepares the process before anything large is imported."""

import os
import sys
from typing import Never

from tidepool import process

_APP_HELP = (
    "the tidepool.App of your application, as module:name, such as shop.app:app; it brings settings and migrations of "
    "its own (default: the environment variable TIDEPOOL_APP, or no application)"
)


def main(program: str = "tidepool", app: str | None = None) -> Never:
    """Run the operators' command that the process's arguments name, and end the process with its exit status.

    *program* is the name of the program in help texts. *app* is where the application is, as
    `package.module:attribute`; the application brings its own settings and migrations. Without *app* the user can give
    it as the option `--app`, whose default is the environment variable TIDEPOOL_APP.
    """
    process.prepare()

    def run() -> Never:
        sys.path.append(os.getcwd())  # noqa: PTH109  (where the application is, as for the `arq` command)
        _run_command(program, app)

    process.run(run)


def _run_command(program: str, app: str | None) -> Never:
    """Run the command that the process's arguments name; *program* and *app* are those of `main`."""
    # These take a second to import.
    import argparse  # noqa: PLC0415

    from tidepool.app import App  # noqa: PLC0415
    from tidepool.cli.operators import command_line  # noqa: PLC0415
    from tidepool.settings import Settings  # noqa: PLC0415

    commands = command_line(program)
    commands.parser.set_defaults(app=app or Settings.app_in_environment())
    if app is None:
        for parser in (commands.parser, *commands.parsers.values()):
            parser.add_argument("--app", default=argparse.SUPPRESS, metavar="MODULE:NAME", help=_APP_HELP)
    arguments = commands.parse()
    place: str | None = arguments.app
    try:
        application = App.load(place) if place else App()
    except ValueError as error:
        commands.parser.error(f"--app: {error}")
    if app is None and place:
        arguments.program = f"{program} --app {place}"
    commands.run(application, arguments)
