"""Runs worker processes of an application, and replaces those that end."""

import asyncio
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Collection, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeAlias

import structlog

from tidepool import process
from tidepool.cli.terminal import CommandError
from tidepool.queue.faults import REDIS_ERRORS
from tidepool.repeating import RetryPolicy
from tidepool.settings import Settings

log = structlog.get_logger(__name__)

_Child: TypeAlias = subprocess.Popen[bytes]

_BACKOFF = RetryPolicy(first_s=0.1, max_s=10.0)
"""Delays before a worker that died is replaced. They begin anew when one has lived for `_STEADY_S` seconds."""
_STEADY_S = 30.0
_BURY_TIMEOUT_S = 2.0
"""Max seconds that a replacement waits for Redis to give the dead worker's jobs back; later its lease ends anyway."""
_KEEP_LOGS_S = 7 * 86_400
_REAP_PERIOD_S = 5.0
_POLL_S = 0.1
"""Seconds between two looks at a worker: event loops wait for child processes each in its own way, or not at all."""


class Supervisor:
    """Runs one worker process for each item of *variables*, and replaces those that end.

    - *place*: where the application is, or adopted arq settings, as `package.module:attribute`
    - *variables*: the environment variables in which each worker's settings differ from this process's own
    - *bury*: awaited with the process id of each worker that died, to give its jobs to other workers at once
    - *restart_after*: each worker ends by itself after so many jobs, and is replaced; None: never
    - *log_dir*: directory with a log file for each worker; None: they write to this process's standard error
    - *max_restarts*: max number of workers that died and were replaced; None: any number
    - *stop_timeout_s*: seconds after which a worker that has been asked to stop is killed; None: never

    The workers are in sessions of their own, so that a terminal's Ctrl-C reaches this process only. They find the
    application if it is installed, in the working directory or on PYTHONPATH.
    """

    def __init__(
        self,
        place: str,
        variables: Sequence[Mapping[str, str]],
        *,
        bury: Callable[[int], Awaitable[object]],
        restart_after: int | None = None,
        log_dir: Path | None = None,
        max_restarts: int | None = None,
        stop_timeout_s: float | None = None,
    ) -> None:
        self._place = place
        self._variables = variables
        self._bury = bury
        self._restart_after = restart_after
        self._logs = None if log_dir is None else _Logs(log_dir)
        self._max_restarts = max_restarts
        self._stop_timeout_s = stop_timeout_s
        self._restarts = 0
        self._running = set[_Child]()
        self._haste = [signal.SIGKILL, signal.SIGQUIT]
        self._lifeline = -1

    async def run(self) -> None:
        """Run the workers until this call is cancelled; then stop them with SIGTERM, and wait until they have ended.

        Raises `CommandError`, after all workers have ended, if one of them cannot start (it ends with status 2), if
        more than *max_restarts* have died, or if a log file cannot be written.
        """
        if self._logs is not None and self._variables:
            self._logs.prepare()
        self._lifeline, held = os.pipe()
        try:
            async with asyncio.TaskGroup() as tasks:
                for number in range(len(self._variables)):
                    tasks.create_task(self._keep(number))
                if os.getpid() == 1:
                    tasks.create_task(self._reap_orphans())
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        finally:
            os.close(held)
            os.close(self._lifeline)

    def hurry(self) -> None:
        """Hurry the workers, which have been asked to stop.

        The first call makes them cancel their jobs and put them back into the queue; the next ones kill the workers.
        """
        number = self._haste.pop() if len(self._haste) > 1 else self._haste[0]
        for child in self._running:
            child.send_signal(number)

    async def _keep(self, number: int) -> None:
        """Run worker *number*, counted from 0, and start another one in its place each time that it ends."""
        limit, delays = self._first_limit(number), _BACKOFF.delays()
        while True:
            begun_s = time.monotonic()
            try:
                child = self._start(number, limit)
            except OSError as error:  # too many processes, or no memory for one more
                log.warning("worker.not_started", number=number, error=error.strerror)
                await asyncio.sleep(next(delays))
                continue
            status = await self._ended(child)
            limit = self._restart_after
            if status == 0 and limit is not None:
                log.info("worker.replaced", number=number, pid=child.pid)
                continue
            if time.monotonic() - begun_s >= _STEADY_S:
                delays = _BACKOFF.delays()
            delay_s = next(delays)
            self._report(number, child.pid, status, delay_s)
            await asyncio.sleep(delay_s)

    def _first_limit(self, number: int) -> int | None:
        """Return after how many jobs the first worker *number* ends: a share of its own, so that all take turns."""
        if self._restart_after is None:
            return None
        return max(1, self._restart_after * (number + 1) // len(self._variables))

    def _start(self, number: int, limit: int | None) -> _Child:
        # The child finds the application where this process has found it: first or last in the working directory.
        is_first = sys.path[:1] in ([""], [os.getcwd()])  # noqa: PTH109
        options = ["-m", "tidepool.cli.worker_process", self._place, *([] if limit is None else [str(limit)])]
        with self._output(number) as output:
            return subprocess.Popen(
                [sys.executable, *([] if is_first else ["-P"]), *options],
                env=Settings.child_environment(**self._variables[number]),
                stdin=self._lifeline,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    async def _ended(self, child: _Child) -> int:
        """Wait until a worker has ended, and return its status; stop it if this call is cancelled."""
        self._running.add(child)
        try:
            return await _status(child)
        except asyncio.CancelledError:
            child.terminate()
            try:
                async with asyncio.timeout(self._stop_timeout_s):
                    await _status(child)
            except TimeoutError:
                child.kill()
                await _status(child)
            raise
        finally:
            self._running.discard(child)
            if child.returncode:
                await self._give_jobs_back(child.pid)

    async def _give_jobs_back(self, pid: int) -> None:
        try:
            async with asyncio.timeout(_BURY_TIMEOUT_S):
                await self._bury(pid)
        except (TimeoutError, *REDIS_ERRORS) as error:
            log.warning("worker.left_jobs", pid=pid, error=type(error).__name__)

    def _report(self, number: int, pid: int, status: int, delay_s: float) -> None:
        """Log that a worker died. Raises `CommandError` if there is to be no other one in its place."""
        end = f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"
        where = "" if self._logs is None else f": {self._logs.last_line(number)} (its log: {self._logs.path(number)})"
        self._restarts += 1
        if status == process.ERROR or (self._max_restarts is not None and self._restarts > self._max_restarts):
            raise CommandError(f"a worker ended with {end}{where}")
        more = {} if self._logs is None else {"log": str(self._logs.path(number))}
        log.warning("worker.died", number=number, pid=pid, end=end, delay_s=delay_s, **more)

    @contextmanager
    def _output(self, number: int) -> Generator[int]:
        """Give the descriptor that a worker writes its log to."""
        if self._logs is None:
            yield 2
        else:
            with self._logs.opened(number) as output:
                yield output

    async def _reap_orphans(self) -> None:
        """Reap the orphans of process 1 of a container, which inherits the children of processes that have ended."""
        while True:
            await asyncio.sleep(_REAP_PERIOD_S)
            _reap_all_but({child.pid for child in self._running})


class _Logs:
    """The workers' log files in one directory; no other user can read them. A live worker holds a lock of its file."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def prepare(self) -> None:
        """Make the directory, and delete the logs of ended workers that were last written to more than a week ago.

        Raises `CommandError` if the directory cannot be made.
        """
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise self._refusal(error) from None
        oldest_s = time.time() - _KEEP_LOGS_S
        for path in self._directory.glob("worker-*.log"):
            with suppress(OSError):  # another run may have deleted it, or its worker lives
                if path.stat().st_mtime < oldest_s:
                    with path.open("rb") as file:
                        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        path.unlink()

    def path(self, number: int) -> Path:
        """Return the log file of worker *number* of this process."""
        return self._directory / f"worker-{os.getpid()}-{number}.log"

    @contextmanager
    def opened(self, number: int) -> Generator[int]:
        """Open a worker's log to append to it; raises `CommandError` if it cannot be written."""
        try:
            output = os.open(self.path(number), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        except OSError as error:
            raise self._refusal(error) from None
        try:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(output, fcntl.LOCK_SH | fcntl.LOCK_NB)  # the worker inherits it with the descriptor
            yield output
        finally:
            os.close(output)

    def last_line(self, number: int) -> str:
        """Return the last line of a worker's log. If the worker could not start, this is the reason."""
        try:
            lines = self.path(number).read_text("utf-8", "replace").strip().splitlines()
        except OSError as error:
            return f"its log cannot be read: {error.strerror}"
        return lines[-1] if lines else "its log is empty"

    def _refusal(self, error: OSError) -> CommandError:
        return CommandError(f"cannot write a worker's log in {self._directory}: {error.strerror}; set DATA_DIR")


async def _status(child: _Child) -> int:
    """Wait until a child process has ended; return its exit status, or minus the number of the signal that ended it."""
    while (status := child.poll()) is None:  # noqa: ASYNC110  (nothing sets an event when a process ends)
        await asyncio.sleep(_POLL_S)
    return status


def _reap_all_but(ours: Collection[int]) -> None:
    """Release the process ids of child processes that have ended, up to the first one of *ours*."""
    with suppress(ChildProcessError):
        while (found := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) and found.si_pid not in ours:
            os.waitpid(found.si_pid, 0)
