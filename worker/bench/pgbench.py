"""What PostgreSQL does without a queue: the two inserts of a create_user job and its ledger row, by pgbench."""

import asyncio
import re
import shutil
import tempfile
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from worker.embedded import packaged_program

CLIENTS = (1, 10, 20, 50)

_KEY = "'b' || :client_id || '-' || :n || '-' || :m"
_USER = f"INSERT INTO users (username, email, full_name) VALUES ({_KEY}, {_KEY} || '@example.org', 'Bench')"  # noqa: S608  (ours)
_COLUMNS = "job_id, function, status, result, attempts, worker_id, enqueued_at, started_at, finished_at, queue_us"
_VALUES = f"{_KEY}, 'create_user', 'applied', '{{}}', 1, 'pgbench', now(), now(), now(), 1"
_ROW = f"INSERT INTO job_results ({_COLUMNS}, pool_wait_us, db_us) VALUES ({_VALUES}, 1, 1)"  # noqa: S608  (the same)
_NUMBERS = r"""\set n random(1, 2000000000)
\set m random(1, 2000000000)
"""
SCRIPTS = {
    "pgbench-two-inserts": f"{_NUMBERS}BEGIN;\n{_USER};\n{_ROW};\nCOMMIT;\n",
    "pgbench-one-statement": f"{_NUMBERS}WITH u AS ({_USER} RETURNING id) {_ROW};\n",
}


def find() -> Path | None:
    """Return the program, of this machine or of the embedded PostgreSQL; None where there is none."""
    found = shutil.which("pgbench")
    return Path(found) if found else packaged_program("pgbench")


async def transactions_per_second(program: Path, url: str, script: str, *, clients: int, seconds: int) -> float:
    """Run one script with prepared statements. Raises `RuntimeError` with pgbench's words where it fails."""
    parts = urlsplit(url)
    host = parse_qs(parts.query).get("host", [parts.hostname or "localhost"])[0]
    options = ("-n", "-M", "prepared", "-c", str(clients), "-j", "1", "-T", str(seconds))
    where = ("-h", host, "-p", str(parts.port or 5432), "-U", parts.username or "postgres", parts.path.lstrip("/"))
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as file:
        file.write(script)
        file.flush()
        process = await asyncio.create_subprocess_exec(
            str(program),
            *(*options, "-f", file.name, *where),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        said, complaint = await process.communicate()
    found = re.search(rb"tps = ([\d.]+)", said)
    if process.returncode or not found:
        raise RuntimeError(f"pgbench: {complaint.decode(errors='replace')[-300:]}")
    return float(found[1])
