"""Runs worker processes while the producer runs (`--workers W`)."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog

from settings import child_environment
from tidepool.cli import CommandError

log = structlog.get_logger(__name__)

_COMMAND = [sys.executable, "-m", "arq", "worker.WorkerSettings"]
_MOST_RESTARTS = 20
_STOP_TIMEOUT_S = 30.0
_KEEP_LOGS_S = 7 * 86_400


class Fleet:
    """Runs *count* worker processes, started with the `arq` command, and replaces those that die.

    Use it as a context manager. The workers run in the working directory, and each logs to a file in *log_dir*.
    *buried* is awaited with the process id of each worker that died, so that its jobs can be given to other workers at
    once.
    """

    def __init__(self, count: int, log_dir: Path, buried: Callable[[int], Awaitable[object]]) -> None:
        self._log_dir = log_dir
        self._buried = buried
        self._restarts = 0
        self._workers: list[subprocess.Popen[bytes]] = []
        self._count = count

    def __enter__(self) -> Self:
        """Start the workers. Deletes logs of earlier runs that were last written to more than a week ago.

        Raises `CommandError` if a log file cannot be written.
        """
        try:
            if self._count:
                self._log_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
                _delete_old_logs(self._log_dir)
            for number in range(self._count):
                self._workers.append(self._start(number))
        except OSError as error:
            self._stop()
            raise CommandError(
                f"cannot write a worker's log in {self._log_dir}: {error.strerror}; set DATA_DIR"
            ) from None
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Stop the workers with SIGTERM and wait for them. A worker that has not ended after 30 seconds is killed."""
        self._stop()

    def _stop(self) -> None:
        for worker in self._workers:
            worker.terminate()
        for worker in self._workers:
            try:
                worker.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()

    async def watch(self) -> None:
        """Replace workers that die, until cancelled.

        Raises `CommandError` when a worker cannot start (it ends with status 2), or after 20 replacements.
        """
        while self._workers:
            for number, worker in enumerate(self._workers):
                if worker.poll() is not None:
                    await self._buried(worker.pid)
                    self._workers[number] = self._replace(number, worker.returncode)
            await asyncio.sleep(0.2)

    def _replace(self, number: int, status: int) -> subprocess.Popen[bytes]:
        self._restarts += 1
        path = self._log_path(number)
        if status == 2 or self._restarts > _MOST_RESTARTS:  # noqa: PLR2004  (2: it cannot start)
            raise CommandError(f"a worker ended with status {status}: {_last_line(path)} (its log: {path})")
        log.warning("worker.died", number=number, status=status, log=str(path))
        return self._start(number)

    def _start(self, number: int) -> subprocess.Popen[bytes]:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        with open(self._log_path(number), "ab", opener=lambda path, _: os.open(path, flags, 0o600)) as output:
            return subprocess.Popen(
                _COMMAND,
                env=child_environment(METRICS_PORT=""),  # it would be one port for all of them
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=Path.cwd(),
            )

    def _log_path(self, number: int) -> Path:
        return self._log_dir / f"worker-{os.getpid()}-{number}.log"


def _last_line(path: Path) -> str:
    """Return the last line of a process's log. If the process could not start, this is the reason."""
    lines = path.read_text("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else "its log is empty"


def _delete_old_logs(directory: Path) -> None:
    oldest_s = time.time() - _KEEP_LOGS_S
    for path in directory.glob("worker-*.log"):
        with suppress(OSError):  # another run may have deleted it
            if path.stat().st_mtime < oldest_s:
                path.unlink()
