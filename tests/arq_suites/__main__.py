"""Run arq's own test suites on arq's Worker and on ours: `uv run python -m tests.arq_suites [VERSION…]`.

Each version's source distribution, which has its tests, is downloaded into a cache folder. It gets a virtual
environment with this checkout and the newest packages that both admit. The tests use the wheel's Redis on a port of the
loopback address. Needs network; nothing of arq's gets into this checkout.

Exit status 0: each test that passes on arq's Worker passes on ours; 1: one does not; 2: a suite could not be run.
"""

import argparse
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from socket import create_server
from tempfile import TemporaryDirectory
from typing import NamedTuple, Self
from xml.etree import ElementTree as ET

from redis import Redis, RedisError

from tidepool.embedded.locks import wait_until
from tidepool.embedded.redis import EmbeddedRedis

_HERE = Path(__file__).parent
_CHECKOUT = _HERE.parents[1]
_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tidepool-arq-suites"
_VERSIONS = ("0.26.1", "0.26.3", "0.27.0", "0.28.0")
"""The first version that admits the redis-py that we need, and the newest of each minor version."""
_NEEDED = ("dirty-equals<0.8", "msgpack", "pytest-mock", "pytest-timeout", "pytz", "watchfiles")
"""What the suites import. Those of 0.26 name the time zone `utc`, which a later dirty-equals does not know."""
_PYTEST = ("pytest<9", "pytest-asyncio<0.24")
"""The suites use a fixture that later versions of pytest-asyncio do not have; these need pytest 8."""
_OPTIONS = (
    "-q",
    "-p",
    "arq_suite_plugin",
    "-p",
    "no:cacheprovider",
    "-o",
    "timeout=60",
    "-W",
    "ignore::DeprecationWarning",
)
"""Warnings are errors in arq's settings; with the newest packages some tests of arq's own use what is deprecated."""


class Unable(Exception):
    """A suite could not be installed or run; the text is the output of what failed."""


class Outcomes(NamedTuple):
    """The names of the tests of one run, by how they ended."""

    passed: set[str]
    failed: set[str]
    skipped: set[str]

    @classmethod
    def read(cls, report: Path) -> Self:
        """Read pytest's report in JUnit's XML. A test has two entries if it passed and what came after it failed."""
        outcomes = cls(set(), set(), set())
        for case in ET.parse(report).iter("testcase"):
            name, ends = f"{case.get('classname')}.{case.get('name')}", {child.tag for child in case}
            if ends & {"failure", "error"}:
                outcomes.failed.add(name)
            elif "skipped" in ends:
                outcomes.skipped.add(name)
            else:
                outcomes.passed.add(name)
        return cls(outcomes.passed - outcomes.failed, outcomes.failed, outcomes.skipped)

    def __str__(self) -> str:
        names = f" ({', '.join(sorted(self.failed))})" if self.failed else ""
        return f"passed {len(self.passed)}, failed {len(self.failed)}{names}, skipped {len(self.skipped)}"


class Suite:
    """The test suite of one version of arq, in a folder of its own with a virtual environment."""

    def __init__(self, version: str) -> None:
        self._version = version
        self._home = _CACHE / version
        self._python = self._home / "venv" / "bin" / "python"

    def install(self) -> None:
        """Download the source distribution and make the environment; what is there from before is used again."""
        self._home.mkdir(parents=True, exist_ok=True)
        uv = os.environ.get("UV", "uv")  # set by `uv run`
        if not self._python.exists():
            _do(uv, "venv", "--quiet", "--seed", "--python", sys.executable, "venv", where=self._home)
        wanted = f"arq=={self._version}"
        install = (uv, "pip", "install", "--quiet", "--python", self._python, "--editable", _CHECKOUT)
        _do(*install, wanted, *_NEEDED, *_PYTEST, where=self._home)  # here, where our pinned versions do not count
        archive = self._home / f"arq-{self._version}.tar.gz"
        if not archive.exists():
            _do(self._python, "-m", "pip", "download", "--no-binary", "arq", "--no-deps", wanted, where=self._home)
        with tarfile.open(archive) as files:
            files.extractall(self._home, filter="data")

    def run(self, worker: str, redis_port: int) -> Outcomes:
        """Run all tests on *worker*, `stock` or `ours`."""
        environment = {"ARQ_SUITE_WORKER": worker, "ARQ_SUITE_REDIS_PORT": str(redis_port), "PYTHONPATH": str(_HERE)}
        with TemporaryDirectory() as folder:
            report = Path(folder) / "report.xml"
            ended = subprocess.run(
                (self._python, "-m", "pytest", *_OPTIONS, f"--junitxml={report}", "tests"),
                cwd=self._home / f"arq-{self._version}",
                env={**os.environ, **environment},
                capture_output=True,
                text=True,
                check=False,
            )
            if not report.exists():
                raise Unable(ended.stdout + ended.stderr)
            return Outcomes.read(report)


def _do(*command: str | Path, where: Path) -> None:
    ended = subprocess.run(command, cwd=where, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise Unable(ended.stdout + ended.stderr)


@contextmanager
def _a_redis() -> Iterator[int]:
    """Run a Redis for the block; gives its port."""
    with create_server(("127.0.0.1", 0)) as unused:
        port: int = unused.getsockname()[1]
    with TemporaryDirectory() as folder:
        options = ("--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder)
        process = subprocess.Popen((EmbeddedRedis.program("redis-server"), *options), stdout=subprocess.DEVNULL)
        try:
            if not wait_until(lambda: _answers(port), 20):
                raise Unable("Redis does not start")
            yield port
        finally:
            process.terminate()
            process.wait()


def _answers(port: int) -> bool:
    try:
        with Redis(port=port) as client:
            return bool(client.ping())
    except RedisError:
        return False


def main(versions: Sequence[str]) -> int:
    """Run the suites of *versions*, print a line for each run, and return the exit status."""
    status = 0
    with _a_redis() as port:
        for version in versions:
            suite = Suite(version)
            suite.install()
            stock, ours = (suite.run(worker, port) for worker in ("stock", "ours"))
            lost = sorted(stock.passed - ours.passed)
            print(f"arq {version}, stock: {stock}")
            print(
                f"arq {version}, ours:  {ours}{'; pass on stock only: ' if lost else ''}{', '.join(lost)}", flush=True
            )
            status = 1 if lost else status
    return status


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m tests.arq_suites", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "versions",
        nargs="*",
        metavar="VERSION",
        default=_VERSIONS,
        help=f"versions of arq (default {' '.join(_VERSIONS)})",
    )
    try:
        sys.exit(main(parser.parse_args().versions))
    except Unable as error:
        print(error, file=sys.stderr)
        sys.exit(2)
