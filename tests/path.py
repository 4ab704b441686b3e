"""The files that a job passes: `uv run python -m tests.path`.

Runs the main job, `python -m producer --jobs N`, with one worker on embedded servers of its own, under a profiler in
both processes, and prints the files of tidepool, worker and producer through which each job or batch goes:

- on the way from `python -m producer` to the COMMIT of the ledger's transaction, in the order in which a single job
  first meets them;
- then those that are used only after the COMMIT: to finish the job in Redis, and to report outcomes (`--follow`).

A file counts if it has a function that is called once per job or once per batch: at least N/500 times more often for N
jobs than for one, since a batch has at most 500 jobs. What a worker without jobs calls in the same time is subtracted.
On the way are such functions that the process of a single job has called before it sent COMMIT. Not counted are files
that are only imported, methods that `dataclass` generates, the results of caches, Lua and SQL.
"""

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import asyncpg

from tests.commands import wait_for_line
from tests.profiled import ROOT
from tidepool import embedded

_JOBS = 5000
_MAX_BATCH = 500
_MIX = "create_user=1"
_SETTLE_S = 2.0
"""Seconds for which a worker goes on with what belongs to its start, or to the finishes of its last jobs."""
_PATIENCE_S = 120.0
_SHOWN = 3
"""Functions that are printed for each file: those that the job calls first."""

Calls = Mapping[str, int]
"""Calls by function, in the order of the first ones."""


class Profile(NamedTuple):
    """What a process has called in some time."""

    calls: Calls
    before_commit: list[str]

    @classmethod
    def read(cls, path: Path) -> "Profile":
        """Read a file that `tests.profiled` writes, when it is there."""
        deadline_s = time.monotonic() + _PATIENCE_S
        while not path.exists():
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"no {path.name} after {_PATIENCE_S:.0f} s")
            time.sleep(0.05)
        return cls(**json.loads(path.read_text("utf-8")))


class Site:
    """Embedded servers, and the commands that run on them under a profiler."""

    def __init__(self, home: Path, database_url: str) -> None:
        self._home = home
        self._database_url = database_url
        self._runs = 0
        self._jobs = 0

    def produce(self, jobs: int, *options: str) -> Profile:
        """Enqueue so many jobs, and wait until the ledger has their outcomes."""
        self._runs += 1
        self._jobs += jobs
        words = ("--jobs", str(jobs), "--mix", _MIX, "--seed", str(self._runs), *options)
        folder = self._folder(f"producer-{self._runs}")
        subprocess.run(
            self._command(folder, "producer", *words), env=self._environment, cwd=ROOT, check=True, capture_output=True
        )
        asyncio.run(self._wait_for_outcomes())
        return Profile.read(folder / "0.json")

    @contextmanager
    def worker(self) -> "Generator[ProfiledWorker]":
        """Run a worker until the block ends."""
        folder = self._folder("worker")
        command = self._command(folder, "arq", "worker.WorkerSettings")
        with subprocess.Popen(command, env=self._environment, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
            try:
                wait_for_line(process, "worker.started")
                yield ProfiledWorker(process, folder)
            finally:
                process.terminate()
                process.communicate()

    @property
    def _environment(self) -> dict[str, str]:
        servers = ("DATABASE_URL", "REDIS_URL", "DB_HOST")
        environment = {name: value for name, value in os.environ.items() if name not in servers}
        return environment | {"DATA_DIR": str(self._home)}

    def _folder(self, name: str) -> Path:
        folder = self._home / "calls" / name
        folder.mkdir(parents=True)
        return folder

    @staticmethod
    def _command(folder: Path, *words: str) -> list[str]:
        return [sys.executable, "-m", "tests.profiled", str(folder), *words]

    async def _wait_for_outcomes(self) -> None:
        connection = await asyncpg.connect(self._database_url)
        try:
            async with asyncio.timeout(_PATIENCE_S):
                while await connection.fetchval("SELECT count(*) FROM job_results") < self._jobs:
                    await asyncio.sleep(0.05)
        finally:
            await connection.close()


class ProfiledWorker:
    """A worker that writes what it has called when it is asked to."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self._process = process
        self._folder = folder
        self._reads = 0

    def read(self) -> Profile:
        """Return what the worker has called since the last time, after some seconds for what it still does."""
        time.sleep(_SETTLE_S)
        self._process.send_signal(signal.SIGUSR1)
        self._reads += 1
        return Profile.read(self._folder / f"{self._reads - 1}.json")


def scaling(many: Calls, *fewer: Calls) -> list[str]:
    """Return the functions that are called per job or per batch: *many* has at least N/500 calls more than *fewer*."""
    return [
        function
        for function, calls in many.items()
        if calls - sum(counts.get(function, 0) for counts in fewer) >= _JOBS / _MAX_BATCH
    ]


def by_file(functions: Iterable[str]) -> dict[str, list[str]]:
    """Return the names of functions by file, in the order in which they come."""
    files: dict[str, list[str]] = {}
    for file, _, name in (function.partition(":") for function in dict.fromkeys(functions)):
        files.setdefault(file, []).append(name)
    return files


def measure(site: Site) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Return the files that a job passes up to the COMMIT, and those that are used only afterwards, with functions."""
    with site.worker() as worker:
        worker.read()  # the start
        enqueued_one, one = site.produce(1), worker.read()
        began_s = time.monotonic()
        enqueued_many, many = site.produce(_JOBS), worker.read()
        time.sleep(time.monotonic() - began_s)
        idle = worker.read()
        site.produce(_JOBS)
        warm = worker.read()
        followed_one, followed_many = site.produce(1, "--follow"), site.produce(_JOBS, "--follow")
    if not one.before_commit:
        raise RuntimeError("the worker sent no COMMIT")
    per_job = [f for f in scaling(warm.calls, one.calls, idle.calls) if f in many.calls]
    enqueuing = scaling(enqueued_many.calls, enqueued_one.calls)
    before = by_file([*enqueuing, *(function for function in one.before_commit if function in per_job)])
    after = by_file([*per_job, *scaling(followed_many.calls, followed_one.calls)])
    return before, {file: names for file, names in after.items() if file not in before}


def main() -> None:
    """Measure on embedded servers, and print the files."""
    argparse.ArgumentParser(
        prog="python -m tests.path", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    with tempfile.TemporaryDirectory(prefix="tp-") as directory, embedded.join(Path(directory)) as membership:
        before, after = measure(Site(Path(directory), membership.urls.database))
    print(f"from `python -m producer` to the COMMIT: {len(before)} files")
    for number, (file, names) in enumerate(before.items(), 1):
        print(f"{number:4} {file:32} {', '.join(names[:_SHOWN])}")
    print(f"only after the COMMIT: {len(after)} files")
    for file, names in after.items():
        print(f"     {file:32} {', '.join(names[:_SHOWN])}")


if __name__ == "__main__":
    main()
