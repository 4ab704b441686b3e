"""The command `work`: it runs worker processes of an application until a signal stops it."""

import argparse
import asyncio
import functools
import signal
import sys

import structlog

from tidepool import logs, process
from tidepool.cli import terminal
from tidepool.cli.commands import Subcommand
from tidepool.cli.context import Context
from tidepool.cli.supervisor import Supervisor
from tidepool.settings import Settings

log = structlog.get_logger(__name__)

_EXAMPLES = """  %(prog)s                                     one worker, replaced if it dies
  %(prog)s --workers 4                         four workers
  %(prog)s --workers 4 --restart-after 50000   for handlers that leak memory
  METRICS_PORT=9100 %(prog)s --workers 2       metrics on the ports 9100 and 9101"""


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--workers",
        type=terminal.processes,
        default=1,
        metavar="N",
        help="number of worker processes to run, from 1 to 64 (default 1)",
    )
    parser.add_argument(
        "--restart-after",
        type=terminal.positive,
        metavar="JOBS",
        help="let each worker run so many jobs, retries included, and replace it when the last of them has ended; the "
        "workers take turns, since their first runs are shorter (default: workers are not replaced while they live)",
    )


async def _work(arguments: argparse.Namespace, context: Context[Settings]) -> int:
    """Run worker processes of an application until SIGTERM or Ctrl-C, and replace those that die.

    If a worker dies, its jobs are put back into the queue at once, and another one is started: after 0.1 s, or up to
    10 s if workers die again and again. The first SIGTERM, Ctrl-C or SIGHUP lets running jobs end, for up to
    SHUTDOWN_WAIT seconds; the second puts them back into the queue; the third kills the workers. If this process is
    killed, the workers stop as after SIGTERM.

    Exit status 0: stopped by a signal. 2: a worker cannot start.

    All workers log to standard error. With more than one worker, worker K (2, 3, …) has the name WORKER_NAME-K and the
    port METRICS_PORT + K - 1; the first has WORKER_NAME and METRICS_PORT as they are. For adopted arq settings, the
    wait is their job_completion_wait, the name of the health key is theirs, and the variable TIDEPOOL_METRICS_PORT.
    """
    if not arguments.app:
        raise terminal.CommandError("there is no application to run: name it with --app or TIDEPOOL_APP")
    settings = context.settings
    logs.configure(settings.log_level)
    supervisor = Supervisor(
        arguments.app,
        [settings.variables_of_worker(number) for number in range(arguments.workers)],
        bury=functools.partial(_bury, context),
        restart_after=arguments.restart_after,
    )
    about = {"app": arguments.app, "workers": arguments.workers, "restart_after": arguments.restart_after}
    if arguments.json:
        terminal.print_json(about)
        sys.stdout.flush()
    log.info("supervisor.started", **about)
    await _run_until_signalled(supervisor)
    return 0


async def _run_until_signalled(supervisor: Supervisor) -> None:
    """Run the workers; the first signal stops them, and each later one hurries them."""
    running = asyncio.ensure_future(supervisor.run())

    def stop(number: int) -> None:
        log.info("supervisor.stopping", signal=signal.Signals(number).name)
        if running.cancelling():
            supervisor.hurry()
        else:
            running.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if not process.stays_ignored(number):
            asyncio.get_running_loop().add_signal_handler(number, stop, number)
    await asyncio.wait([running])
    if not running.cancelled():
        running.result()


async def _bury(context: Context[Settings], pid: int) -> None:
    """Give the jobs of a dead worker back, over a connection of its own: workers seldom die.

    If a Sentinel has to be asked for the address of Redis, they wait for the end of the lease.
    """
    if not context.urls.redis:
        return
    async with context.client() as client:
        await client.bury(pid)


COMMAND = Subcommand("work", _work, _EXAMPLES, _add_options, needs=())
