"""Writes log lines to standard error from a thread, through a bounded queue.

If the output blocks (a pipe that is not read, a stopped terminal, a slow disk), only that thread waits: lines collect
in the queue, and when it is full, new ones are dropped and counted. Once the output takes lines again, one line says
how many are missing, in the place where they would be. The same holds if the output fails (a closed pipe, a full disk).

The caller formats the lines, so that they show the state at the time of logging. A process that ends waits up to
`EXIT_WAIT_S` seconds until the queue is written; a process that is killed loses what is in it.
"""

import os
import select
import threading
from collections import deque
from collections.abc import Callable

MAX_LINES = 10_000
MAX_BYTES = 4 << 20
"""Max size of the queued lines in bytes; the thread may hold as many again while it writes them."""
MAX_LINE_BYTES = 64 << 10
EXIT_WAIT_S = 2.0
_POLL_MS = 1000


class LogQueue:
    """Writes text to the file descriptor *fd* from a thread, in the order of the calls of `put`.

    *dropped_line* makes the line that reports lost lines: it is called with their number and returns the line.
    """

    def __init__(self, fd: int, dropped_line: Callable[[int], str]) -> None:
        self._fd = fd
        self._dropped_line = dropped_line
        self._is_torn = False
        self._begin()
        os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        """Start with an empty queue and no thread; also in a forked child: the parent process writes its own lines."""
        self._changed = threading.Condition()  # reentrant: a signal handler may log while its thread does
        self._lines: deque[bytes] = deque()
        self._bytes = self._dropped = 0
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def put(self, text: str) -> None:
        """Append *text*, one or more whole lines, to the queue; if it is full, drop and count them. Never waits."""
        line = _bounded(text.encode("utf-8", "backslashreplace"))
        with self._changed:
            is_full = len(self._lines) >= MAX_LINES or self._bytes + len(line) > MAX_BYTES
            if self._is_closed or self._dropped or is_full:
                self._dropped += 1
                return
            self._lines.append(line)
            self._bytes += len(line)
            self._changed.notify()
            if self._thread is None:
                self._start()

    def close(self, wait_s: float = EXIT_WAIT_S) -> bool:
        """Write the queued lines within *wait_s* seconds; return whether all were written. Later lines are dropped."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        if self._thread is None:
            return not self._lines
        self._thread.join(wait_s)
        return not self._thread.is_alive()

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="log writer", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # no more threads, or the interpreter is ending; the next line tries again
            self._thread = None

    def _run(self) -> None:
        missing = 0
        while batch := self._take():
            lines, dropped = batch
            missing = self._report(missing)
            missing += sum(not self._write(line) for line in lines)
            missing = self._report(missing + dropped)

    def _report(self, missing: int) -> int:
        """Write a line that says how many lines are missing, if any; return how many are still unreported."""
        return 0 if missing and self._write(self._dropped_line(missing).encode()) else missing

    def _take(self) -> tuple[deque[bytes], int] | None:
        """Wait for lines and take them all; return them and the number dropped since. None: the queue is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._lines or self._is_closed)
            if not self._lines:
                return None
            batch = self._lines, self._dropped
            self._lines, self._bytes, self._dropped = deque(), 0, 0
            return batch

    def _write(self, line: bytes) -> bool:
        """Write one line, and wait while the output is full; return False if the output fails."""
        left = memoryview(b"\n" + line if self._is_torn else line)
        whole = len(left)
        try:
            while left:
                try:
                    left = left[os.write(self._fd, left) :]
                except BlockingIOError:
                    _until_writable(self._fd)
        except OSError:
            self._is_torn = self._is_torn or len(left) < whole
            return False
        self._is_torn = False
        return True


def _until_writable(fd: int) -> None:
    """Wait up to a second until a non-blocking descriptor can be written."""
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    poll.poll(_POLL_MS)


def _bounded(line: bytes) -> bytes:
    if len(line) <= MAX_LINE_BYTES:
        return line
    kept = line[:MAX_LINE_BYTES].decode("utf-8", "ignore").encode()
    return kept + b"... [%d bytes cut]\n" % (len(line) - len(kept))
