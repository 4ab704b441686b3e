"""The queue of log lines: an output that takes nothing, or fails, stops nobody and is reported once it takes lines."""

import fcntl
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tidepool import log_queue
from tidepool.log_queue import LogQueue

LINE = "x" * 999 + "\n"


def dropped(count: int) -> str:
    """Render the report of dropped lines."""
    return f"dropped {count}\n"


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Give the two ends of a pipe that holds one page."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    yield reader, writer
    for fd in (reader, writer):
        try:
            os.close(fd)
        except OSError:
            continue


def read_all(queue: LogQueue, reader: int, writer: int) -> list[str]:
    """Close the queue while somebody reads it, and return every line that came."""
    with os.fdopen(reader, encoding="utf-8", closefd=False) as stream:
        lines: list[str] = []
        reading = threading.Thread(target=lambda: lines.extend(stream))
        reading.start()
        assert queue.close(20)
        os.close(writer)
        reading.join()
    return [line.rstrip("\n") for line in lines]


def test_lines_keep_their_order(pipe: tuple[int, int]) -> None:
    """From first to last, whatever they are encoded from."""
    queue = LogQueue(pipe[1], dropped)
    texts = [*map(str, range(500)), "é \u2028 \udcff"]
    for text in texts:
        queue.put(f"{text}\n")
    assert [*texts[:-1], "é \u2028 \\udcff"] == read_all(queue, *pipe)


@pytest.mark.parametrize(
    ("lines", "size", "limit"), [("MAX_LINES", "MAX_BYTES", 100), ("MAX_BYTES", "MAX_LINES", 100_000)]
)
def test_a_pipe_that_nobody_reads_drops_the_newest_and_counts(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch, lines: str, size: str, limit: int
) -> None:
    """`put` never waits, the oldest lines are kept, and the report stands where lines are missing."""
    monkeypatch.setattr(log_queue, lines, limit)
    queue = LogQueue(pipe[1], dropped)
    for number in range(3000):
        queue.put(f"{number} {LINE}")
    found = read_all(queue, *pipe)
    kept = [int(line.split()[0]) for line in found if not line.startswith("dropped")]
    assert kept == sorted(kept)
    missing = sum(int(line.split()[1]) for line in found if line.startswith("dropped"))
    assert 3000 == len(kept) + missing
    assert len(kept) <= 2 * 100 + 10
    assert len(kept) >= 99  # lines of a thousand characters and a number: 100,000 bytes have room for 99


def test_lines_after_a_gap_follow_its_report(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """So a reader sees where lines are missing."""
    monkeypatch.setattr(log_queue, "MAX_LINES", 10)
    queue = LogQueue(pipe[1], dropped)
    for _ in range(100):
        queue.put(LINE)
    seen = b""
    while b"dropped" not in seen:
        seen += os.read(pipe[0], 4096)
    queue.put("after\n")
    assert ["after"] == read_all(queue, *pipe)[-1:]


def test_an_end_does_not_wait_for_a_reader(pipe: tuple[int, int]) -> None:
    """What it could not write by then is lost, as is what comes later."""
    queue = LogQueue(pipe[1], dropped)
    for _ in range(100):
        queue.put(LINE)
    assert not queue.close(0.05)
    queue.put(LINE)
    while os.read(pipe[0], 65536) and queue._thread and queue._thread.is_alive():  # lets the thread end
        queue._thread.join(0.01)


def test_a_closed_pipe_raises_nothing_and_ends_no_thread(pipe: tuple[int, int]) -> None:
    """EPIPE for every line; the writer goes on to the next one."""
    os.close(pipe[0])
    queue = LogQueue(pipe[1], dropped)
    for _ in range(10):
        queue.put(LINE)
    assert queue.close(20)


def test_a_full_disk_is_reported_when_there_is_room_again(tmp_path: Path) -> None:
    """The lines that found none are counted, and the torn one does not join the next."""
    script = """
import os, resource, signal, sys, threading
from tidepool.log_queue import LogQueue
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)
resource.setrlimit(resource.RLIMIT_FSIZE, (1500, resource.RLIM_INFINITY))
both = threading.Event()
def dropped(count):
    if count == 2:
        both.set()
    return f"dropped {count}\\n"
queue = LogQueue(fd, dropped)
for line in ("a", "b", "c"):
    queue.put(line * 999 + "\\n")
both.wait()
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
queue.put("d\\n")
assert queue.close(20)
"""
    log = tmp_path / "log"
    subprocess.run([sys.executable, "-c", script, str(log)], check=True, cwd=Path(__file__).parents[2])
    assert ["a" * 999, "b" * 500, "dropped 2", "d"] == log.read_text().splitlines()


def test_a_pipe_that_somebody_made_non_blocking_loses_nothing(pipe: tuple[int, int]) -> None:
    """EAGAIN is waited out, in the thread."""
    os.set_blocking(pipe[1], False)
    queue = LogQueue(pipe[1], dropped)
    for _ in range(100):
        queue.put(LINE)
    assert 100 == len(read_all(queue, *pipe))


def test_a_line_is_bounded(pipe: tuple[int, int]) -> None:
    """A cut line says how much is missing; no character is cut in two."""
    queue = LogQueue(pipe[1], dropped)
    queue.put("é" * 100_000 + "\n")
    (line,) = read_all(queue, *pipe)
    assert line.endswith(f"... [{200_001 - log_queue.MAX_LINE_BYTES} bytes cut]")
    assert len(line.encode()) < log_queue.MAX_LINE_BYTES + 100


def test_a_forked_child_has_a_thread_of_its_own(pipe: tuple[int, int]) -> None:
    """It writes its own lines, and not those that its parent has queued."""
    script = """
import os
from tidepool.log_queue import LogQueue
queue = LogQueue(1, str)
queue.put("parent\\n")
child = os.fork()
if not child:
    queue.put("child\\n")
    queue.close()
    os._exit(0)
os.waitpid(child, 0)
queue.close()
"""
    words = [sys.executable, "-W", "ignore", "-c", script]
    said = subprocess.run(words, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[2]).stdout
    assert ["child", "parent"] == sorted(said.split())


def test_a_signal_handler_may_log_in_the_middle_of_a_line(pipe: tuple[int, int]) -> None:
    """The same thread enters the queue twice, and does not wait for itself."""
    queue = LogQueue(pipe[1], dropped)
    before = signal.signal(signal.SIGUSR1, lambda *_: queue.put("inner\n"))
    try:
        with queue._changed:
            signal.raise_signal(signal.SIGUSR1)
            queue.put("outer\n")
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert ["inner", "outer"] == read_all(queue, *pipe)
