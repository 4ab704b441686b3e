"""Measures PostgreSQL without a queue: pgbench runs the two inserts of a create_user job and its ledger row."""

import asyncio
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from tidepool.cli.terminal import CommandError
from tidepool.embedded import EmbeddedServersError
from tidepool.embedded.postgres import Postgres
from tidepool.settings import Settings

CLIENTS = (1, 10, 20, 50)

_KEY = "'b' || :client_id || '-' || :n || '-' || :m"
_USER = f"INSERT INTO public.users (username, email, full_name) VALUES ({_KEY}, {_KEY} || '@example.org', 'Bench')"  # noqa: S608  (ours)
_COLUMNS = "job_id, function, status, result, attempts, worker_id, enqueued_at, started_at, finished_at, queue_us"
_VALUES = f"{_KEY}, 'create_user', 'applied', '{{}}', 1, 'pgbench', now(), now(), now(), 1"
_ROW = f"INSERT INTO public.job_results ({_COLUMNS}, pool_wait_us, db_us) VALUES ({_VALUES}, 1, 1)"  # noqa: S608  (the same)
_NUMBERS = r"""\set n random(1, 2000000000)
\set m random(1, 2000000000)
"""
SCRIPTS = {
    "pgbench-two-inserts": f"{_NUMBERS}BEGIN;\n{_USER};\n{_ROW};\nCOMMIT;\n",
    "pgbench-one-statement": f"{_NUMBERS}WITH u AS ({_USER} RETURNING id) {_ROW};\n",
}


def find() -> Path | None:
    """Return the path of pgbench, installed on this machine or with the embedded PostgreSQL; None if there is none."""
    if found := shutil.which("pgbench"):
        return Path(found)
    try:
        return Postgres.program("pgbench")
    except EmbeddedServersError:
        return None


async def transactions_per_second(program: Path, url: str, script: str, *, clients: int, seconds: int) -> float:
    """Run *script* with pgbench, with prepared statements, and return the transactions per second.

    Raises `CommandError` with pgbench's error message if it fails.
    """
    options = ("-n", "-M", "prepared", "-c", str(clients), "-j", "1", "-T", str(seconds))
    where, variables = _connecting(url)
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as file:
        file.write(script)
        file.flush()
        said, complaint, status = await _ran((str(program), *options, "-f", file.name, where), variables)
    found = re.search(rb"tps = ([\d.]+)", said)
    if status or not found:
        words = complaint.decode(errors="replace").strip() or f"status {status}"
        raise CommandError(f"pgbench: {' '.join(words[-300:].split())}")
    return float(found[1])


def _connecting(url: str) -> tuple[str, dict[str, str]]:
    """Return *url* without its password, and the password as the environment variable PGPASSWORD.

    A command line is visible to all users of the machine.
    """
    parts = urlsplit(url)
    options = parse_qsl(parts.query, keep_blank_values=True)
    given = dict(options).get("password", unquote(parts.password or ""))
    user, _, hosts = parts.netloc.rpartition("@")
    who = f"{user.partition(':')[0]}@" if user else ""
    others = urlencode([option for option in options if option[0] != "password"], quote_via=quote, safe="/")
    return f"{parts.scheme}://{who}{hosts}{parts.path}?{others}", {"PGPASSWORD": given} if given else {}


async def _ran(command: Sequence[str], variables: dict[str, str]) -> tuple[bytes, bytes, int | None]:
    """Run pgbench to its end; return its standard output, its standard error and its exit status.

    It has no terminal, so that it cannot ask for a password.
    """
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=pipe,
        stderr=pipe,
        env=Settings.child_environment(**variables),
        start_new_session=True,
    )
    try:
        said, complaint = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    return said, complaint, process.returncode
