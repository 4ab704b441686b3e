"""The operators' commands, and the parts that an application's own command line is made of.

These are the public names. Each is imported when it is first used, so that a process can be prepared (`prepare`) before
anything large is imported.

- `start`      the entry point of `tidepool`; `operators` has its commands, with `pool`, `jobs`, `letters`,
  `status` and `work`
- `serve`      the command that runs the HTTP front, and its parts for an application's own
- `supervisor` runs worker processes and replaces those that end; `worker_process` is one of them
- `commands`   parsers, and how a command is run, from the settings to the exit status
- `context`    a command's settings, and its access to PostgreSQL and Redis
- `terminal`   output as tables or JSON, progress and errors as lines, and types of arguments
"""

from typing import TYPE_CHECKING

from tidepool.on_demand import import_on_demand

if TYPE_CHECKING:
    from tidepool.cli.commands import CommandLine, Subcommand
    from tidepool.cli.context import Context
    from tidepool.cli.jobs import JOB_COMMANDS
    from tidepool.cli.serve import add_serve_options, serve_front
    from tidepool.cli.start import main
    from tidepool.cli.supervisor import Supervisor
    from tidepool.cli.terminal import (
        CommandError,
        console,
        duration,
        figures_table,
        port,
        positive,
        print_json,
        processes,
    )
    from tidepool.process import prepare
    from tidepool.process import run as run_main

__all__ = [
    "JOB_COMMANDS",
    "CommandError",
    "CommandLine",
    "Context",
    "Subcommand",
    "Supervisor",
    "add_serve_options",
    "console",
    "duration",
    "figures_table",
    "main",
    "port",
    "positive",
    "prepare",
    "print_json",
    "processes",
    "run_main",
    "serve_front",
]

_HOMES = {
    "JOB_COMMANDS": "tidepool.cli.jobs",
    "Subcommand": "tidepool.cli.commands",
    "CommandError": "tidepool.cli.terminal",
    "CommandLine": "tidepool.cli.commands",
    "Context": "tidepool.cli.context",
    "Supervisor": "tidepool.cli.supervisor",
    "add_serve_options": "tidepool.cli.serve",
    "console": "tidepool.cli.terminal",
    "duration": "tidepool.cli.terminal",
    "figures_table": "tidepool.cli.terminal",
    "main": "tidepool.cli.start",
    "port": "tidepool.cli.terminal",
    "positive": "tidepool.cli.terminal",
    "prepare": "tidepool.process",
    "print_json": "tidepool.cli.terminal",
    "processes": "tidepool.cli.terminal",
    "run_main": "tidepool.process:run",
    "serve_front": "tidepool.cli.serve",
}

__getattr__ = import_on_demand(__name__, _HOMES)
