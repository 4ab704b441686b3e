"""Starts a worker that has a defect which no signal from outside can cause: `python -m lab.drill.launcher`.

It runs what `arq worker.WorkerSettings` runs. With `--clock 3600` the worker's clock is an hour ahead; with `--block 6`
each SIGUSR2 blocks its event loop for six seconds; with `--unread` its standard error is a pipe that is full and that
nobody reads. Only the drill uses it; the service has nothing like it.
"""

import argparse
import os
import signal
import time


def launched(*, clock_s: float = 0.0, block_s: float = 0.0, unread: bool = False) -> tuple[str, ...]:
    """Return the arguments of `python -m` that start a worker with these defects.

    *clock_s* is how far its clock is ahead, in seconds (negative: behind); *block_s* is how long a SIGUSR2 blocks its
    event loop; with *unread* nobody reads its log.
    """
    words = ("lab.drill.launcher", "--clock", str(clock_s), "--block", str(block_s))
    return (*words, "--unread") if unread else words


def main() -> None:
    """Run a worker with the defects that the command line names."""
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
    from arq.cli import cli  # noqa: PLC0415  (a module that is imported before keeps the right clock)

    cli(["worker.WorkerSettings"], prog_name="arq")


def _stop_reading_the_log() -> None:
    """Replace standard error by a pipe that is full and that nobody reads."""
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
