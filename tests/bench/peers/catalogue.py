"""The peers: what is installed for each, how its worker is started, and with which settings."""

import sys
from dataclasses import dataclass
from pathlib import Path

APPS = Path(__file__).parent / "apps"
PROCESSES = 2
"""Worker processes of every system: one a core."""


@dataclass(frozen=True, slots=True)
class System:
    """One system under measurement. Its commands run with the Python of its own environment."""

    name: str
    settings: str
    """In words, for the table."""
    jobs: int
    """So many that it runs for some seconds."""
    enqueue: tuple[str, ...]
    """Command that preloads the queue; the number of jobs follows as its last word."""
    work: tuple[str, ...]
    """Command that starts a worker."""
    commands: int = PROCESSES
    """How often *work* is started; 1 where it starts the processes itself."""
    packages: tuple[str, ...] = ()
    """What is installed for it, its own distribution first; none: it is measured from this checkout."""


def _peer(name: str, settings: str, jobs: int, packages: str, work: str = "", commands: int = PROCESSES) -> System:
    app = f"{name}_app.py"
    return System(
        name,
        settings,
        jobs,
        enqueue=("python", str(APPS / app), "enqueue"),
        work=tuple(work.split()) or ("python", str(APPS / app), "work"),
        commands=commands,
        packages=tuple(packages.split()),
    )


def _ours(name: str, settings: str, jobs: int, worker: str, *, quiet: bool = True) -> System:
    logs = ("--custom-log-dict", "lab.bench.targets.QUIET_LOGS") if quiet else ()
    return System(
        name,
        settings,
        jobs,
        enqueue=(sys.executable, "-m", "producer", "--mix", "create_user=1", "--json", "--jobs"),
        work=(sys.executable, "-m", "arq", worker, *logs),
    )


SYSTEMS = (
    _ours("tidepool", "as it comes", 30_000, "worker.WorkerSettings"),
    _ours("arq-tuned", "uvloop, max_jobs 100, poll_delay 0.01", 4_000, "lab.bench.targets.ArqTuned"),
    _ours("arq-default", "as it comes, JSON", 1_000, "lab.bench.targets.ArqDefault", quiet=False),
    _peer(
        "saq",
        "Redis, uvloop, concurrency 50",
        5_000,
        "saq[redis]==0.26.4 typing-extensions asyncpg==0.32.0 uvloop==0.23.0 hiredis",
    ),
    _peer(
        "streaq",
        "uvloop, concurrency and prefetch 32, silent tasks",
        4_000,
        "streaq==7.2.0 asyncpg==0.32.0 uvloop==0.23.0",
    ),
    _peer(
        "taskiq",
        "list broker, 100 async tasks, prefetch 100, no parse",
        5_000,
        "taskiq==0.13.0 taskiq-redis==1.2.4 asyncpg==0.32.0 uvloop==0.23.0 hiredis",
        f"taskiq worker taskiq_app:broker --workers {PROCESSES} --max-async-tasks 100 --max-prefetch 100 --no-parse",
        1,
    ),
    _peer(
        "dramatiq",
        "8 threads, results, prefetch 1000",
        5_000,
        "dramatiq[redis]==2.2.1 psycopg[binary,pool]==3.3.9 hiredis",
        f"dramatiq dramatiq_app --processes {PROCESSES} --threads 8",
        1,
    ),
    _peer(
        "celery",
        "prefork, prefetch multiplier 100, no gossip, mingle or heartbeat",
        2_000,
        "celery[redis]==5.7.0 psycopg[binary,pool]==3.3.9 hiredis",
        f"celery -A celery_app worker -c {PROCESSES} --without-gossip --without-mingle --without-heartbeat -l WARNING",
        1,
    ),
    _peer(
        "rq",
        "SimpleWorker: no fork for each job",
        1_000,
        "rq==3.0.0 psycopg[binary,pool]==3.3.9 hiredis",
        f"rq worker-pool bench -q -n {PROCESSES} -w rq.worker.SimpleWorker -u {{redis}}",
        1,
    ),
    _peer(
        "procrastinate",
        "PostgreSQL, uvloop, concurrency 20",
        2_000,
        "procrastinate==3.10.0 asyncpg==0.32.0 uvloop==0.23.0 psycopg[binary,pool]==3.3.9",
    ),
    _peer(
        "pgqueuer",
        "PostgreSQL, uvloop, batches of 200, 400 tasks",
        10_000,
        "pgqueuer==1.6.0 asyncpg==0.32.0 uvloop==0.23.0",
    ),
)
