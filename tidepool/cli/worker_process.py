"""Runs one worker of an application, as a child process of a `Supervisor`.

    python -m tidepool.cli.worker_process PLACE [JOBS]

PLACE is where the application is, or adopted arq settings, as `package.module:attribute`; after JOBS jobs the worker
ends by itself. Standard input must be a pipe that the supervisor holds open and never writes to. When the supervisor
ends, however it does, the pipe ends, too, and the worker stops as it does after SIGTERM.
"""

import os
import signal
import sys
import threading

from tidepool import process


def _main() -> None:
    """Run the worker that the process's arguments name; raises `SystemExit` with status 2 if it cannot start."""
    place, *limit = sys.argv[1:]
    _stop_with_supervisor()
    sys.path.append(os.getcwd())  # noqa: PTH109  (where the application is, as for the `arq` command)
    # These take a second to import.
    from tidepool.app import App  # noqa: PLC0415
    from tidepool.engine.running import run_worker  # noqa: PLC0415

    try:
        settings = App.settings_at(place)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(process.ERROR)
    process.tune_for_throughput()
    run_worker(settings, max_jobs_run=int(limit[0]) if limit else None)


def _stop_with_supervisor() -> None:
    """Send SIGTERM to this process when the pipe on its standard input ends.

    The pipe gets another descriptor, so that no program that a job starts can read from it.
    """
    pipe = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)

    def wait() -> None:
        os.read(pipe, 1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="supervisor", daemon=True).start()


if __name__ == "__main__":
    process.prepare(hangup_terminates=True)
    process.run(_main)
