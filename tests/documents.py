"""The documents' fenced blocks, and a directory like a checkout in which they are run as a reader pastes them.

A block is run unless a comment before it says `<!-- not run: why -->`. Of a shell block each command runs on its own,
in order; what it exports is there for the later ones. A server (`arq worker.WorkerSettings`, `work`, `serve`) is
started and left running; one that is alone in its block is then stopped by Ctrl-C. A worker of the reader's own
application takes the place of the one before. Blocks without a language are for reading.
"""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
_DOCS = (str(path.relative_to(ROOT)) for path in sorted(ROOT.glob("docs/*.md")))
PAGES = ("README.md", *_DOCS, "examples/shop/README.md")
FENCE = re.compile(
    r"(?:<!-- not run: (?P<why>[^>]+?) -->\s*)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
_ADOPTED = re.compile(r"\barq (?!worker\.)[\w.]+\.WorkerSettings\s*$|\btidepool .*\bwork\b")
"""A worker of a reader's own application."""
_SERVER = re.compile(
    rf"{_ADOPTED.pattern}|\barq worker\.WorkerSettings\s*$|\b(?:producer|tidepool .*) serve\b"
    r"|\bworker (?:services|work)\b"
)
_READY = {False: ("worker.started", "serving on", "postgresql"), True: ("redis_version",)}
"""What a server has logged when it serves, by whether it is a worker of a reader's own application."""
_COMMAND_WAIT_S = 100.0
_PORT = "8000"


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block; *why* it is not run, if it is not."""

    language: str
    text: str
    why: str | None

    @property
    def commands(self) -> list[str]:
        """The commands of a shell block: whatever bash takes as complete, without comments after them."""
        commands, begun = [], ""
        for line in self.text.splitlines(keepends=True):
            begun += line
            if _is_complete(begun):
                commands += [begun.strip()] if begun.strip() else []
                begun = ""
        assert not begun, f"bash takes this for incomplete: {begun}"
        return commands


def blocks(page: str) -> list[Block]:
    """Return the fenced blocks of a page."""
    found = FENCE.finditer((ROOT / page).read_text("utf-8"))
    return [Block(match["language"], match["text"], match["why"]) for match in found]


def without_comment(command: str) -> str:
    """Return a command of one line without the comment after it."""
    return command if "\n" in command else re.sub(r"\s+#.*", "", command)


def _is_complete(text: str) -> bool:
    if text.endswith("\\\n"):
        return False
    checked = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False)
    return not checked.returncode and not checked.stderr


class Reader:
    """Somebody who pastes the blocks of documents, in *home*, on embedded servers that are there for nobody else.

    `uv run`, `pip` and `tidepool` are stand-ins: everything is installed, but not that command. The front's port is a
    free one instead of 8000, and workloads have a tenth of their jobs. The reader's own servers have other URLs than
    the page: *urls* has, for each URL that is exported, the one that is used.
    """

    def __init__(self, home: Path, port: int, urls: Mapping[str, str] | None = None) -> None:
        self._home = home
        self._port = port
        self._urls = urls or {}
        self._running: list[subprocess.Popen[bytes]] = []
        self._adopted: subprocess.Popen[bytes] | None = None
        for path in (*ROOT.glob("*.py"), *(ROOT / name for name in ("tidepool", "worker", "producer", "lab", "tests"))):
            (home / path.name).symlink_to(path)
        tools = home / "tools"
        tools.mkdir()
        _write_tool(tools / "pip", "exit 0")
        _write_tool(tools / "uv", 'shift; exec "$@"')
        _write_tool(tools / "tidepool", 'exec python -m tidepool "$@"')
        left_out = ("DATABASE_URL", "REDIS_URL", "DATA_DIR", "LOG_LEVEL", "STATS_INTERVAL", "PYTHONDONTWRITEBYTECODE")
        self._environment = {name: value for name, value in os.environ.items() if name not in left_out}
        self._environment["PATH"] = f"{tools}:{Path(sys.executable).parent}:{os.environ['PATH']}"

    def follow(self, block: Block) -> Iterator[tuple[str, int, str]]:
        """Run a block; yields each command that ended, with its exit status and what it printed."""
        if block.language == "python":
            yield self._run(["python", "-c", block.text], block.text)
            return
        commands = block.commands
        for command in commands:
            if command.startswith("export "):
                self._export(command)
            elif _SERVER.search(without_comment(command)):
                server = self.start(command)
                if len(commands) == 1:
                    yield command, self._stop(server), ""
            elif missing := _missing_tool(command):
                print(f"not run, there is no {missing}: {command}")  # noqa: T201  (pytest shows it on a failure)
            else:
                yield self._run(["bash", "-c", self._on_free_port(command)], command)

    def start(self, command: str) -> subprocess.Popen[bytes]:
        """Start a server, and return when it says that it serves."""
        log = self._home / f"server-{len(self._running)}.log"
        words = without_comment(self._on_free_port(command))
        if "serve" in words:
            words += f" --port {self._port}"
        is_adopted = _ADOPTED.search(words) is not None
        if is_adopted and self._adopted is not None and self._adopted.poll() is None:
            self._stop(self._adopted)
        with log.open("wb") as output:
            server = subprocess.Popen(
                ["bash", "-c", f"exec {words}"],
                cwd=self._home,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._running.append(server)
        self._adopted = server if is_adopted else self._adopted
        until_s = time.monotonic() + _COMMAND_WAIT_S
        while not any(word in log.read_text("utf-8", "replace") for word in _READY[is_adopted]):
            assert server.poll() is None, f"{command}: {log.read_text('utf-8', 'replace')}"
            assert time.monotonic() < until_s, f"{command}: does not begin"
            time.sleep(0.05)
        return server

    def close(self) -> None:
        """Stop the servers that are left, the newest first."""
        for server in reversed(self._running):
            if server.poll() is None:
                self._stop(server)

    def _export(self, command: str) -> None:
        for name, _, value in (word.partition("=") for word in shlex.split(command)[1:]):
            self._environment[name] = self._urls.get(value, value)

    def _stop(self, server: subprocess.Popen[bytes]) -> int:
        os.killpg(server.pid, signal.SIGINT)
        try:
            return server.wait(_COMMAND_WAIT_S)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            raise

    def _run(self, words: list[str], command: str) -> tuple[str, int, str]:
        ended = subprocess.run(
            words,
            cwd=self._home,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=_COMMAND_WAIT_S,
            check=False,
        )
        return command, ended.returncode, ended.stdout

    def _on_free_port(self, command: str) -> str:
        return (
            command.replace("--jobs 10000", "--jobs 1000")
            .replace(f"127.0.0.1:{_PORT}", f"127.0.0.1:{self._port}")
            .replace(f"localhost:{_PORT}", f"127.0.0.1:{self._port}")
        )


def _write_tool(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def _missing_tool(command: str) -> str | None:
    """Return the first program of another project that a command needs and that is not installed."""
    needed = (tool for tool in ("psql", "jq", "curl") if re.search(rf"\b{tool}\b", command))
    return next((tool for tool in needed if shutil.which(tool) is None), None)
