"""README and docs: their code and commands work as they are pasted, in order."""

import asyncio
import json
import re
import shlex
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from documents import FENCE, PAGES, ROOT, Reader, blocks

from lab.__main__ import command_line as lab_commands
from producer import __main__ as producer_main
from tidepool.cli.operators import command_line as operators_commands
from tidepool.pool.config import PoolConfig

RUN = ("sh", "python")
NO_ADVICE = "worker advise"
"""Exit status 1 is documented: there is no advice to give on a few minutes of a young service."""
SERVE = re.compile(r"\b(?:producer|tidepool .*) serve\b")
"""Ends by Ctrl-C here, with the status that the README documents for it. `arq` ends with 0."""
GUIDE = "docs/moving-from-arq.md"
TUTORIAL = "docs/tutorial.md"
ADOPTED = re.compile(r"\btidepool --app \S+ ([^`|;)&>]*)")
"""A command on an adopted application. `python -m worker` has the same commands."""
PROGRAM = re.compile(r"python -m (worker|producer|lab)\b([^`|;)&>]*)")


@pytest.fixture
def reader() -> Iterator[Reader]:
    """Give somebody who follows the documents."""
    with a_reader({}) as reader:
        yield reader


@contextmanager
def a_reader(urls: dict[str, str]) -> Iterator[Reader]:
    """Give somebody who follows the documents, in a directory whose sockets have short paths; *urls* as in `Reader`."""
    home = Path(tempfile.mkdtemp(prefix="tp-docs-"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # Programs that a shell starts in its background ignore SIGINT, and so would all that they start.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    reader = Reader(home, port, urls)
    try:
        yield reader
    finally:
        reader.close()
        signal.signal(signal.SIGINT, before)
        shutil.rmtree(home, ignore_errors=True)


def follow(reader: Reader, page: str) -> str:
    """Paste all blocks of a page; return what the commands printed."""
    output = ""
    for block in blocks(page):
        if block.language not in RUN or block.why:
            continue
        for command, status, printed in reader.follow(block):
            allowed = (0, 1) if NO_ADVICE in command else (130,) if SERVE.search(command) else (0,)
            assert status in allowed, f"{page}: status {status}\n{command}\n{printed}"
            assert "Traceback" not in printed, f"{page}\n{command}\n{printed}"
            output += printed
    return output


@pytest.mark.timeout(300)
def test_the_readme_works_as_it_is_pasted(reader: Reader) -> None:
    """From a bare machine to the last command, each with the status that it documents."""
    follow(reader, "README.md")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", [page for page in PAGES if page not in ("README.md", GUIDE, TUTORIAL)])
def test_a_page_works_as_it_is_pasted(reader: Reader, page: str) -> None:
    """Beside a worker and a front, as the README's reader has them."""
    if not any(block.language in RUN and not block.why for block in blocks(page)):
        pytest.skip("nothing to run")
    reader.start("arq worker.WorkerSettings")
    reader.start("python -m producer serve")
    follow(reader, page)


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_the_guide_for_arq_applications_works_as_it_is_pasted(redis_url: str, empty_database: PoolConfig) -> None:
    """On servers of the reader's own. Its output is what the page shows, and the history has the jobs."""
    urls = {"redis://localhost:6379/0": redis_url, "postgresql://localhost/app": empty_database.url}
    with a_reader(urls) as reader:
        printed = await asyncio.to_thread(follow, reader, GUIDE)
    (shown,) = (block.text for block in blocks(GUIDE) if block.text.startswith("sent hello"))
    assert 2 == printed.count(shown)
    connection: Any = await empty_database.connect("test")
    rows = await connection.fetch("SELECT function, status, attempts, atomic FROM tidepool.job_results")
    await connection.close()
    jobs = {("send_mail", "applied", 1, False), ("send_mail", "applied", 2, False), ("charge", "failed", 1, False)}
    assert jobs == {tuple(row) for row in rows if not row["function"].startswith("cron:")}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_tutorial_works_as_it_is_pasted(reader: Reader) -> None:
    """On servers of the reader's own. Its output is what the page shows, and all tests of the application pass."""
    printed = follow(reader, TUTORIAL)
    (shown,) = (block.text for block in blocks(TUTORIAL) if block.text.startswith("paid"))
    assert shown in printed
    assert "2 passed" in printed
    assert "3 passed" in printed


@pytest.mark.parametrize("page", PAGES)
def test_every_command_is_one(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Those that are not run included, and those in the middle of a sentence: words and options exist."""
    text = (ROOT / page).read_text("utf-8").replace("\\\n", " ")
    for program, rest in (*PROGRAM.findall(text), *(("worker", rest) for rest in ADOPTED.findall(text))):
        words = shlex.split(rest.split("\n")[0].split("#")[0].replace("'", "").replace('"', ""))
        if not words or any("…" in word or "$" in word or word.isupper() for word in words):
            continue  # a placeholder, which the shell or the reader fills
        status = 0
        try:
            _parse(program, words)
        except SystemExit as end:
            status = end.code
        assert not status, f"{page}: {' '.join(words)}: {capsys.readouterr().err}"


def _parse(program: str, words: list[str]) -> None:
    """Parse a command line; ends the process with status 2 if it is wrong."""
    commands = {"worker": operators_commands("worker"), "lab": lab_commands(), "producer": producer_main.command_line()}
    commands[program].parse(words)


@pytest.mark.parametrize("page", PAGES)
def test_json_is_fenced_and_is_json(page: str) -> None:
    """A document outside of a fence would be one long line to a reader."""
    text = (ROOT / page).read_text("utf-8")
    for block in blocks(page):
        if block.language == "json":
            json.loads(block.text)
    assert not re.search(r"^[{\[]\s*$", FENCE.sub("", text), re.MULTILINE)
