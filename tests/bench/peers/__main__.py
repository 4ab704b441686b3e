"""Measure job queues side by side: `uv run python -m tests.bench.peers [--only tidepool,saq] [--repeat 3] [--json]`.

Each system creates the same users in the same PostgreSQL, and has the same Redis (no persistence, TCP loopback)
where it uses one; streaq needs Redis 7, which the embedded one is not: name another by `--redis-server`. Each
peer is installed, in the version of the catalogue, into an environment of its own below `.data/peers`. Rounds go
through all systems in turn, on servers of their own; about three minutes a round.
"""

import argparse
import asyncio
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rich.console import Console
from rich.table import Table

from tests.bench.peers.catalogue import PROCESSES, SYSTEMS, System
from tests.bench.peers.measure import DATABASE, MeasureError, Place, drain
from tidepool import embedded

_ENVIRONMENTS = Path(".data/peers").absolute()


def main() -> int:
    """Measure, and print a table or JSON; exit status 1 where a system did not do its work."""
    arguments = _arguments()
    for system in arguments.only:
        _install(system)
    with tempfile.TemporaryDirectory(prefix="peers-") as home, _servers(Path(home), arguments.redis_server) as place:
        rates, failures = asyncio.run(_rounds(arguments.only, arguments.repeat, place))
    runs = [_run(system, rates[system.name]) for system in arguments.only if rates[system.name]]
    document = {"machine": _machine(arguments.repeat), "runs": runs, "failures": failures}
    if arguments.json:
        print(json.dumps(document))
    else:
        _print(document)
    return 1 if failures else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only",
        type=_systems,
        default=SYSTEMS,
        metavar="A,B",
        help="names of the systems to measure, separated by commas (default: all)",
    )
    parser.add_argument(
        "--repeat",
        type=int,
        default=3,
        metavar="R",
        help="number of times that each system is measured; the medians are shown (default 3)",
    )
    parser.add_argument(
        "--redis-server",
        default="redis-server",
        metavar="PATH",
        help="Redis server program to run (default: redis-server, as found on PATH)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    return parser.parse_args()


def _systems(text: str) -> tuple[System, ...]:
    known = {system.name: system for system in SYSTEMS}
    if unknown := set(text.split(",")) - set(known):
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: not of {', '.join(known)}")
    return tuple(known[name] for name in text.split(","))


def _install(system: System) -> None:
    """Make the system's environment with exactly its packages; what is there already is kept."""
    if not system.packages:
        return
    home = _ENVIRONMENTS / system.name
    if not home.exists():
        subprocess.run(["uv", "venv", "--quiet", home, "--python", sys.executable], check=True)
    command = ["uv", "pip", "install", "--quiet", "--python", home / "bin/python", *system.packages]
    subprocess.run(command, cwd=tempfile.gettempdir(), check=True)  # not here: our pins are not theirs


@contextmanager
def _servers(home: Path, redis_server: str) -> Iterator[Place]:
    """Run the embedded PostgreSQL, and a Redis on TCP, which all peers can reach."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    redis = subprocess.Popen(
        [redis_server, "--port", str(port), "--bind", "127.0.0.1", "--save", ""],
        cwd=home,
        stdout=subprocess.DEVNULL,
    )
    try:
        with embedded.join(home / "data") as membership:
            admin = membership.urls.database
            yield Place(
                admin_url=admin,
                database_url=urlsplit(admin)._replace(path=f"/{DATABASE}").geturl(),
                redis_url=f"redis://127.0.0.1:{port}/0",
                environments=_ENVIRONMENTS,
                log=home / "log",
            )
    finally:
        redis.terminate()
        redis.wait()


async def _rounds(systems: tuple[System, ...], repeat: int, place: Place) -> tuple[dict[str, Any], list[str]]:
    drains: dict[str, Any] = {system.name: [] for system in systems}
    failures: list[str] = []
    for number in range(repeat):
        for system in systems:
            try:
                drained = await drain(system, place)
            except MeasureError as error:
                failures.append(str(error))
                print(f"round {number + 1}: {error}", file=sys.stderr)
                continue
            drains[system.name].append(drained)
            print(f"round {number + 1}: {system.name} {drained.jobs_per_second:,.0f}/s", file=sys.stderr)
    return drains, failures


def _run(system: System, drains: list[Any]) -> dict[str, Any]:
    rates = [drained.jobs_per_second for drained in drains]
    return {
        "system": system.name,
        "version": system.packages[0].rpartition("==")[2] if system.packages else "",
        "settings": system.settings,
        "jobs": system.jobs,
        "jobs_per_second": {"median": round(statistics.median(rates)), "all": [round(rate) for rate in rates]},
        "cpu_us_per_job": round(statistics.median(drained.cpu_us_per_job for drained in drains)),
    }


def _machine(repeat: int) -> dict[str, Any]:
    return {
        "when": time.strftime("%Y-%m-%d"),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "processes": PROCESSES,
        "rounds": repeat,
    }


def _print(document: dict[str, Any]) -> None:
    table = Table(box=None, pad_edge=False)
    for title in ("system", "version", "jobs/s", "all rounds", "CPU us/job", "settings"):
        table.add_column(title, justify="right" if title in ("jobs/s", "CPU us/job") else "left")
    for run in sorted(document["runs"], key=lambda run: -run["jobs_per_second"]["median"]):
        rate = run["jobs_per_second"]
        rounds = " ".join(f"{one:,}" for one in rate["all"])
        table.add_row(
            run["system"], run["version"], f"{rate['median']:,}", rounds, f"{run['cpu_us_per_job']:,}", run["settings"]
        )
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    print(json.dumps(document["machine"]))


if __name__ == "__main__":
    sys.exit(main())
