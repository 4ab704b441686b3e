"""Every command in every environment that went wrong once: the documented status, a line, no traceback, no password."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from own_servers import a_standby
from redis import Redis

from lab.__main__ import command_line as lab_commands
from producer.__main__ import command_line as producer_commands
from tidepool.cli.operators import command_line as operators_commands

ROOT = Path(__file__).parents[2]
PASSWORD = "geheim"
MEASURES = {"bench", "tune", "pool-test", "load-test", "layouts"}
"""They make databases of their own, and use one Redis database: one at a time."""
WORDS = {
    "producer": ("--jobs", "3"),
    "lab bench": ("--parts", "acquire", "--repeat", "1"),
    "lab drill": ("--list",),
    "lab tune": ("--values", "1,2", "--repeats", "2", "--seconds", "0.2"),
    "lab pool-test": ("--max-concurrent", "5", "--seconds", "0.1"),
    "lab load-test": ("--users", "1", "--requests", "2"),
    "lab layouts": ("--connections", "2", "--shards", "2", "--seconds", "0.2", "--repeats", "1"),
    "arq": ("worker.WorkerSettings",),
    "arq --check": ("worker.WorkerSettings",),
}
"""What a command is called with, where it needs words or would take long without."""
WORKER = {0, 143}
"""arq's worker is asked to stop: while it still imports it ends by the signal, later by itself."""
FINE = {
    "producer serve": {143},
    "worker serve": {143},
    "worker advise": {1},
    "worker services": {2},
    "lab pool-test": {0, 1},
    "worker work": WORKER,
    "arq": WORKER,
    "arq --check": {1},
}
"""The statuses in an environment in which nothing is wrong, but 0: a busy machine may cost pool-test a timeout."""
NEEDS_NOTHING = {"worker urls", "lab drill"}
NO_REDIS = {
    "producer results",
    "worker results",
    "worker snapshots",
    "worker pool",
    "worker why",
    "worker advise",
    "worker migrate",
}
"""They read PostgreSQL alone."""
NO_DATABASE = {"worker services", "arq --check", "worker dead-letters"}
"""They do not read PostgreSQL."""


def commands() -> list[str]:
    """Return every command that there is, from the parsers."""
    programs = {"producer": producer_commands(), "worker": operators_commands("worker"), "lab": lab_commands()}
    ours = [f"{program} {word}" for program, line in programs.items() for word in line.parsers if word]
    return ["producer", *ours, "arq", "arq --check"]


@dataclass
class Environment:
    """One environment: variables, streams, and what a command's status may be."""

    status: Callable[[str], set[int]]
    variables: dict[str, str] = field(default_factory=dict)
    streams: dict[str, Any] = field(default_factory=dict)


def fine(command: str) -> set[int]:
    """Return the statuses where nothing is wrong."""
    return FINE.get(command, {0})


def refused(command: str) -> set[int]:
    """Return those where neither server can be used, or the settings are wrong."""
    return fine(command) if command in NEEDS_NOTHING else {2}


def refused_by(users: Callable[[str], bool]) -> Callable[[str], set[int]]:
    """Return those where one of the servers refuses us."""
    return lambda command: {2} if users(command) and command not in NEEDS_NOTHING else fine(command)


def away(command: str) -> set[int]:
    """Return those where both servers are away: a worker waits for them."""
    waiting = {"arq": WORKER, "worker work": WORKER, "arq --check": {1}, "worker services": {2}}
    return waiting.get(command) or refused(command)


def unwritten(command: str) -> set[int]:
    """Return those where the output cannot be written: 2, but for what a signal ends, and what writes none."""
    return fine(command) if command in ("producer serve", "worker serve", "worker work", "arq", "arq --check") else {2}


def uses_schema(command: str) -> bool:
    """Return whether the command reads or makes our tables."""
    return command not in NO_DATABASE and command.removeprefix("lab ") not in MEASURES


BAD_URLS = {
    "no slashes": ("DATABASE_URL", f"postgresql:tp:{PASSWORD}@127.0.0.1/db"),
    "host missing": ("DATABASE_URL", f"postgresql:///odd:{PASSWORD}@h/db"),
    "slash in password": ("DATABASE_URL", f"postgresql://odd:7/{PASSWORD}@127.0.0.1/db"),
    "bad port": ("DATABASE_URL", f"postgresql://odd:{PASSWORD}@127.0.0.1:99999/db"),
    "trailing comma": ("DATABASE_URL", f"postgresql://odd:{PASSWORD}@127.0.0.1:1,/db"),
    "unknown parameter": ("DATABASE_URL", f"postgresql://odd:{PASSWORD}@127.0.0.1:1/db?junk=1"),
    "other scheme": ("DATABASE_URL", f"mysql://odd:{PASSWORD}@127.0.0.1:1/db"),
    "Redis: slash in password": ("REDIS_URL", f"redis://:12/{PASSWORD}@127.0.0.1"),
    "Redis: no slashes": ("REDIS_URL", f"redis:user:{PASSWORD}@127.0.0.1"),
    "Redis: unknown parameter": ("REDIS_URL", f"redis://:{PASSWORD}@127.0.0.1:1/0?foo=1"),
    "Redis: word for a database": ("REDIS_URL", f"redis://:{PASSWORD}@127.0.0.1:1/mydb"),
    "Redis: two hosts": ("REDIS_URL", f"redis://:{PASSWORD}@127.0.0.1:1,127.0.0.1:2/0"),
}


@pytest.fixture(scope="module")
def environments(servers: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Environment]]:
    """Give the environments, with databases, roles and users of their own on the session's servers."""
    names = ("every_well", "every_empty", "every_migrated", "every_foreign")
    login = f"local all every_stranger password\n{Path(servers_hba := hba_file(servers)).read_text('utf-8')}"
    before = Path(servers_hba).read_text("utf-8")
    Path(servers_hba).write_text(login, "utf-8")
    servers.administer(
        f"CREATE ROLE every_stranger LOGIN PASSWORD '{PASSWORD}x'",
        "SELECT pg_reload_conf()",
        "CREATE DATABASE every_well TEMPLATE tidepool_template STRATEGY FILE_COPY",
        *(f"CREATE DATABASE {name} STRATEGY FILE_COPY" for name in names[1:]),
    )
    in_database(servers, "every_foreign", "CREATE TABLE users (name text)")
    in_database(servers, "every_well", odd_outcome())
    redis = Redis.from_url(servers.redis_url(0))
    for number in (14, 15):
        Redis.from_url(servers.redis_url(number)).flushdb()
    redis.execute_command("ACL", "SETUSER", "every_stranger", "on", f">{PASSWORD}x", "+@all", "~*")
    home = tmp_path_factory.mktemp("every")
    with a_standby(servers, servers.database_url("every_well")) as standby:
        yield dict(made_environments(servers, str(home), standby))
    redis.execute_command("ACL", "DELUSER", "every_stranger")
    redis.close()
    Path(servers_hba).write_text(before, "utf-8")
    servers.administer(*(f"DROP DATABASE {name} WITH (FORCE)" for name in names), "DROP ROLE every_stranger")


def made_environments(servers: Any, home: str, standby: str) -> Iterator[tuple[str, Environment]]:
    """Yield each environment with its name."""
    well = {"DATABASE_URL": servers.database_url("every_well"), "REDIS_URL": servers.redis_url(14), "DATA_DIR": home}
    well |= {"CONNECT_TIMEOUT": "0.3", "COLUMNS": "80", "PATH": os.environ["PATH"], "HOME": home}
    nowhere = f"postgresql://me:{PASSWORD}@127.0.0.1:1/db", f"redis://:{PASSWORD}@127.0.0.1:1/0"
    yield "well", Environment(fine, well)
    yield "servers away", Environment(away, well | {"DATABASE_URL": nowhere[0], "REDIS_URL": nowhere[1]})
    stranger = well["DATABASE_URL"].replace("postgres@", f"every_stranger:{PASSWORD}@")
    yield (
        "wrong password",
        Environment(
            refused_by(lambda command: command not in NO_DATABASE),
            well | {"DATABASE_URL": stranger},
        ),
    )
    odd = well["REDIS_URL"].replace("unix://", f"unix://every_stranger:{PASSWORD}@")
    users = refused_by(lambda command: command not in {"worker services", "arq --check", *NO_REDIS})
    yield "wrong password of Redis", Environment(users, well | {"REDIS_URL": odd})
    for name, (variable, url) in BAD_URLS.items():
        yield name, Environment(lambda _: {2}, well | {variable: url})
    empty = {"DATABASE_URL": servers.database_url("every_empty"), "MIGRATE_ON_START": "false"}
    tables = refused_by(lambda command: uses_schema(command) and command != "worker migrate")
    yield "no tables", Environment(tables, well | empty)
    foreign = {"DATABASE_URL": servers.database_url("every_foreign")}
    yield "foreign tables", Environment(refused_by(uses_schema), well | foreign)
    written = refused_by(lambda command: command not in NO_DATABASE)
    yield "standby", Environment(written, well | {"DATABASE_URL": standby})
    for closed in ([0], [1], [2], [0, 1, 2]):
        yield f"closed {closed}", Environment(fine, well, {"closed": closed})
    yield "ascii output", Environment(fine, well, {"encoding": "ascii"})
    yield "full output", Environment(unwritten, well, {"output": "/dev/full"})
    yield "full errors", Environment(fine, well, {"errors": "/dev/full"})
    yield "no temporary directory", Environment(fine, well | {"TMPDIR": "/proc/none"})
    closed = refused_by(lambda command: command == "lab tune")
    yield "unwritable DATA_DIR", Environment(closed, well | {"DATA_DIR": "/proc/none"})


def hba_file(servers: Any) -> str:
    """Return the file in which PostgreSQL reads who may log in, and how."""
    home = servers.urls.database.split("host=")[1].split("&")[0].removesuffix("/run")
    return f"{home}/postgres/pg_hba.conf"


def in_database(servers: Any, name: str, statement: str) -> None:
    """Run a statement in a database."""
    import asyncio  # noqa: PLC0415

    import asyncpg  # noqa: PLC0415

    async def run() -> None:
        connection = await asyncpg.connect(servers.database_url(name))
        await connection.execute(statement)
        await connection.close()

    asyncio.run(run())


def odd_outcome() -> str:
    """Return what puts an outcome into the ledger that few encodings can express."""
    return (
        "INSERT INTO job_results (job_id, function, status, reason, attempts, worker_id, enqueued_at, "
        "started_at, finished_at, queue_us, pool_wait_us, db_us) "
        "VALUES ('é-鯨-😀', 'create_user', 'rejected', 'invalid', 1, 'w', now(), now(), now(), 1, 1, 1)"
    )


def case(number: int, command: str, environment: Environment) -> dict[str, Any]:
    """Return what `tests/batch.py` runs: under a name of its own, with a directory and a port of its own."""
    word, *rest = command.split()
    variables = environment.variables | {"WORKER_NAME": f"every-{number}"}
    if Path(variables["DATA_DIR"]).is_dir():
        variables["DATA_DIR"] += f"/{number}"
    if command == "worker work":  # its workers are processes of their own
        variables["PYTHONPATH"] = str(ROOT)
    if command == "worker migrate":  # the others are to find the empty one empty
        variables["DATABASE_URL"] = variables["DATABASE_URL"].replace("/every_empty", "/every_migrated")
    call = {"argv": [word, *rest, *WORDS.get(command, ())], "environment": variables, **environment.streams}
    if command in ("producer serve", "worker serve"):
        with socket.create_server(("127.0.0.1", 0)) as server:
            call["argv"] += ["--port", str(server.getsockname()[1])]
    if rest and rest[0] in MEASURES:
        call |= {"group": "measures", "fresh": starts_processes(command, environment)}
    serves = command in ("arq", "producer serve", "worker serve", "worker work") and environment.status(command) != {2}
    return call | ({"stop_s": 1.5} if serves else {})


def starts_processes(command: str, environment: Environment) -> bool:
    """Return whether the command gets as far as to start workers or shards, which takes seconds."""
    return command in ("lab tune", "lab load-test", "lab layouts") and (
        environment.status(command) == {0} or bool(environment.streams)
    )


def faults(command: str, ended: dict[str, Any], allowed: set[int], *, says: bool) -> list[str]:
    """Return what is wrong with how a command ended."""
    said = ended["stderr"] + ("" if command == "worker urls" else ended["stdout"])  # it is asked for the password
    wrong = [] if ended["status"] in allowed else [f"status {ended['status']} instead of {sorted(allowed)}"]
    wrong += [word for word in ("Traceback", "Logging error", "Exception ignored", PASSWORD) if word in said]
    if ended["status"] == 2 and says and not ended["stderr"].strip():
        wrong.append("status 2 without a line")
    return [*wrong, *(["a process is left"] if ended["left"] else [])]


def has_errors(environment: Environment) -> bool:
    """Return whether what is written to standard error can be read back."""
    return 2 not in environment.streams.get("closed", ()) and "errors" not in environment.streams


def check(environments: dict[str, Environment], cells: list[tuple[str, str]]) -> None:
    """Run the cells and assert that nothing is wrong with any."""
    cases = [case(number, command, environments[name]) for number, (command, name) in enumerate(cells)]
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "batch.py")],
        input=json.dumps(cases),
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    wrong: list[str] = []
    for (command, name), ended in zip(cells, json.loads(done.stdout), strict=True):
        if found := faults(command, ended, environments[name].status(command), says=has_errors(environments[name])):
            tail = ended["stderr"].strip().splitlines()[-1:]
            wrong.append(f"{command} | {name}: {', '.join(found)} | {tail}")
    assert not wrong, "\n" + "\n".join(wrong)


def a_part(environments: dict[str, Environment]) -> list[tuple[str, str]]:
    """Return three of seven cells of each row and column of the matrix, without those that take seconds."""
    return [
        (command, name)
        for row, command in enumerate(commands())
        for column, name in enumerate(environments)
        if (row + column) % 7 in (0, 2, 5) and not starts_processes(command, environments[name])
    ]


def test_the_slice_has_every_command_and_every_environment(environments: dict[str, Environment]) -> None:
    """A command that is new is in it by itself; one that this file names and that is gone is a mistake."""
    cells = a_part(environments)
    assert 2 <= min([command for command, _ in cells].count(command) for command in commands())
    assert 5 <= min([name for _, name in cells].count(name) for name in environments)
    assert {*WORDS, *FINE, *NEEDS_NOTHING, *NO_REDIS, *NO_DATABASE} <= set(commands())


@pytest.mark.timeout(120)
def test_commands_end_as_documented_wherever_they_are(environments: dict[str, Environment]) -> None:
    """A part of the matrix."""
    check(environments, a_part(environments))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_command_ends_as_documented_everywhere(environments: dict[str, Environment]) -> None:
    """All of it."""
    check(environments, [(command, name) for command in commands() for name in environments])
