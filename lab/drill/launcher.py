"""Starts a worker that has something wrong with it, which no signal from outside can do to it.

`python -m lab.drill.launcher --clock 3600` runs what `arq worker.WorkerSettings` runs, with a clock that is an
hour ahead; with `--block 6` its event loop stands still for six seconds at each SIGUSR2; with `--unread` its standard
error is a pipe that is full and that nobody reads. Only the drill starts it: the service has no such thing.
"""

import argparse
import os
import signal
import time


def launched(*, clock_s: float = 0.0, block_s: float = 0.0, unread: bool = False) -> tuple[str, ...]:
    """Return the words after `python -m` that start such a worker."""
    words = ("lab.drill.launcher", "--clock", str(clock_s), "--block", str(block_s))
    return (*words, "--unread") if unread else words


def main() -> None:
    """Make it so, and run the worker."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clock", type=float, default=0.0)
    parser.add_argument("--block", type=float, default=0.0)
    parser.add_argument("--unread", action="store_true")
    arguments = parser.parse_args()
    _set_clock(arguments.clock)
    if arguments.unread:
        _stop_reading_the_log()

    def block(_number: int, _frame: object) -> None:
        time.sleep(arguments.block)

    signal.signal(signal.SIGUSR2, block)
    from arq.cli import cli  # noqa: PLC0415  (whoever is imported before keeps the right clock)

    cli(["worker.WorkerSettings"], prog_name="arq")


def _stop_reading_the_log() -> None:
    """Replace standard error by a pipe without room or reader."""
    _, writer = os.pipe()  # the end to read from stays open: a closed one would fail each write instead
    os.set_blocking(writer, False)
    try:
        while True:
            os.write(writer, b"x")
    except BlockingIOError:
        os.set_blocking(writer, True)
    os.dup2(writer, 2)


def _set_clock(skew_s: float) -> None:
    now, now_ns = time.time, time.time_ns
    time.time = lambda: now() + skew_s
    time.time_ns = lambda: now_ns() + int(skew_s * 1e9)


if __name__ == "__main__":
    main()
