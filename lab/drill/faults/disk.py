"""A full disk: the ledger's table is moved to a small file system in memory, which is then filled."""

import asyncio
import os
import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import LiteralString, cast

from lab.drill.arena import Arena
from lab.drill.faults.breaking import SHORT_S, Fault, NotHereError

_MIB = 1 << 20
_GROWTH_MIB = 32
_PAGE = 4096


async def _disk_full(arena: Arena, _chance: random.Random) -> None:
    bytes_now: int = (await arena.fetch("SELECT pg_table_size('public.job_results')"))[0][0]
    async with _small_disk(arena, bytes_now // _MIB + _GROWTH_MIB) as directory:
        await arena.fetch(cast("LiteralString", f"CREATE TABLESPACE drill LOCATION '{directory}'"))
        await arena.fetch("ALTER TABLE public.job_results SET TABLESPACE drill")
        filler = directory / "filler"
        try:
            await asyncio.to_thread(_fill, filler)
            await arena.until(lambda: _stands_still(arena))  # what PostgreSQL has of the disk lasts for some seconds
            await asyncio.sleep(SHORT_S)
        finally:
            filler.unlink()
            await arena.fetch("ALTER TABLE public.job_results SET TABLESPACE pg_default")
            await arena.fetch("DROP TABLESPACE drill")


@asynccontextmanager
async def _small_disk(arena: Arena, size_mib: int) -> AsyncGenerator[Path]:
    """Mount a file system of *size_mib* MiB in memory, owned by PostgreSQL's user, and return its directory.

    It is unmounted at the end of the block. Raises `NotHereError` if it cannot be mounted.
    """
    directory = arena.home / "small"
    directory.mkdir(exist_ok=True)
    if problem := await _command("mount", "-t", "tmpfs", "-o", f"size={size_mib}m", "tmpfs", str(directory)):
        raise NotHereError(f"no file system can be mounted: {problem}")
    try:
        owner = arena.postgres.data.stat()
        os.chown(directory, owner.st_uid, owner.st_gid)
        yield directory
    finally:
        await _command("umount", "--lazy", str(directory))


async def _stands_still(arena: Arena) -> bool:
    before = await arena.outcomes()
    await asyncio.sleep(1)
    return before == await arena.outcomes()


def _fill(path: Path) -> None:
    """Write to *path* until the file system is full."""
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(_PAGE))


async def _command(*words: str) -> str:
    """Run a command; return the last line of its error output if it failed, else an empty string."""
    try:
        process = await asyncio.create_subprocess_exec(*words, stderr=asyncio.subprocess.PIPE)
    except OSError as error:
        return str(error)
    _, complaint = await process.communicate()
    return (complaint.decode().strip() or "it failed").splitlines()[-1] if process.returncode else ""


FAULTS = (
    Fault("disk-full", "There is no room left on the disk that the ledger is on.", _disk_full, needs_own_servers=True),
)
