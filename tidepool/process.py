"""Prepares a process before it imports anything heavy, and ends it with a documented exit status.

`prepare` is the first thing that `python -m producer`, `python -m worker` and `arq worker.WorkerSettings` do. It needs
nothing but what the interpreter has loaded, because until it has run, a signal ends the process without an exit status
of ours; process 1 of a container would not even get the signal.

Exit statuses of `python -m producer` and `python -m worker`:

- 0: success. A reader that closes standard output early (`| head -1`) changes nothing: the rest of the text is dropped.
- 1: the command ran, and a job failed, a line was refused, there is no such job, or there is no advice to give.
- 2: wrong usage or a wrong setting, a server that is unavailable or refuses the connection, a refusal by the operating
  system (a full disk, a directory that cannot be written), or standard output that could not be written in full.
- 128 + N: ended by signal N, after everything that it had open was closed: 129 SIGHUP (a closed terminal), 130 SIGINT
  (Ctrl-C), 143 SIGTERM. If the parent process ignores SIGHUP (as `nohup` does) or SIGINT, it stays ignored.

`python -m worker work` and `tidepool work` run until a signal stops them, and end with 0 then, or with 2 if a worker
cannot start.

`arq worker.WorkerSettings` is arq's command. It ends with 0 after SIGINT, SIGTERM or SIGHUP, after `--burst`, and after
a `--check` of a healthy worker; with 1 after a `--check` of an unhealthy one; with 2 if it could not start; with
128 + N if the signal comes while it still imports.
"""

import atexit
import errno
import io
import os
import re
import select
import signal
import sys
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Never

ERROR = 2
"""Exit status for a wrong call or setting, an unavailable server, or an error of the operating system."""
_REFUSED_IMPORT = re.compile("failed to map segment|[Cc]annot allocate memory|^Out of memory")
_LEAST_DESCRIPTORS = 12
"""Min file descriptors free at the start: seven for an event loop, the others for connections and for open files."""
_YOUNG_OBJECTS = 20_000
"""Threshold of the garbage collector: objects created between two runs. Python's default is 700 to 2,000."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _StandardStream(io.FileIO):
    """Standard output or standard error whose writes never raise an error.

    The first error is kept in *failure*, and all later output is dropped. So a full disk or a closed pipe does not
    interrupt the code that prints.
    """

    failure: OSError | None = None

    def write(self, data: Any, /) -> int:
        """Write *data*, and wait while a non-blocking descriptor is full; return how many bytes need not be sent again.

        These are the bytes that were written, or all of *data* after an error, when output is dropped.
        """
        while self.failure is None:
            try:
                if (written := super().write(data)) is not None:  # pyright: ignore[reportUnnecessaryComparison]
                    return written
                select.select([], [self], [])
            except OSError as error:
                self.failure = error
        return memoryview(data).nbytes


def prepare(*, hangup_terminates: bool = False) -> None:
    """Set up the standard streams and the signals; call this before heavy imports.

    Opens standard streams that are closed, and makes them accept any text. From now on SIGINT, SIGTERM and SIGHUP end
    the process at once with status 128 + N. With *hangup_terminates*, SIGHUP does what SIGTERM does once that has
    another handler: a worker finishes its running jobs when its terminal is closed. Ends the process with status 2 if
    it may open too few files.
    """
    _open_closed_descriptors()
    sys.stdin = sys.stdin or open(0, encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115
    sys.stdout = _stream(1, sys.stdout)
    sys.stderr = _stream(2, sys.stderr)
    for number in _SIGNALS:
        _handle(number, _end_now)
    if hangup_terminates:
        _handle(signal.SIGHUP, _hang_up)
    # The first that is registered is called last. After it Python restores what signals do by default, and a signal
    # that came then would take the place of the status.
    atexit.register(signal.pthread_sigmask, signal.SIG_BLOCK, _SIGNALS)
    sys.excepthook = _explain
    _require_descriptors()


def run(main: Callable[[], object]) -> Never:
    """Call *main*, and end the process when it is done.

    The exit status is 0, or that of the `SystemExit` that *main* raises; it is 2 if standard output could not be
    written.
    """
    status: int | str = 0
    try:
        main()
    except SystemExit as end:
        status = end.code or 0
    sys.stdout.flush()
    failure = _failure_of_output()
    if failure is not None and status in (0, 1):
        print(f"error: standard output could not be written: {failure.strerror}", file=sys.stderr)  # noqa: T201
        status = ERROR
    for number in _SIGNALS:
        _handle(number, _end_now)
    sys.exit(status)


def tune_for_throughput() -> None:
    """Make this process run jobs faster: uvloop, with an event loop that arq will run, and less garbage collection.

    Call it in a process that does nothing but run jobs, after its imports and before its event loop is made. It is for
    whole programs, since it changes things that an application may have set for itself.
    """
    import asyncio  # noqa: PLC0415  (takes 60 ms, and `prepare` must come before)
    import gc  # noqa: PLC0415

    import uvloop  # noqa: PLC0415

    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())  # pyright: ignore[reportDeprecated]  (arq asks the policy)
    asyncio.set_event_loop(asyncio.new_event_loop())  # arq before 0.28 fails if there is none, and uvloop makes none
    # A thousand jobs are some ten thousand young objects, none of them garbage. By default the collector examines
    # them and all modules several times for each batch, which takes a sixth of the worker's time.
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS)


def is_arq_command() -> bool:
    """Return whether this process runs the `arq` command, rather than another program that imports the worker."""
    program = sys.argv[0] if sys.argv else ""
    return os.path.basename(program) == "arq" or program.endswith(os.path.join("arq", "__main__.py"))  # noqa: PTH118, PTH119


def stays_ignored(number: int) -> bool:
    """Return whether the parent process made this process ignore signal *number*; then no handler should be set.

    False for SIGTERM, which is always handled.
    """
    return number != signal.SIGTERM and signal.getsignal(number) is signal.SIG_IGN


def _handle(number: int, handler: Callable[[int, FrameType | None], object]) -> None:
    """Set the handler of a signal, unless the parent process made it ignored."""
    if not stays_ignored(number):
        signal.signal(number, handler)


def _end_now(number: int, _frame: object) -> None:
    """End the process at once with status 128 + *number*: at this time it has nothing open that must be closed."""
    os._exit(128 + number)


def _hang_up(number: int, frame: object) -> None:
    """Do what SIGTERM does, but end the process as SIGHUP would while SIGTERM would end it at once."""
    if signal.getsignal(signal.SIGTERM) is _end_now:
        _end_now(number, frame)
    signal.raise_signal(signal.SIGTERM)


def _explain(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """End with one line if an import failed for lack of memory; print any other error, a bug, with its traceback.

    Looks at the error's causes, too: a module may have caught the refusal and raised another error.
    """
    causes = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None:
        causes.append(cause)
    if any(isinstance(one, MemoryError) or _REFUSED_IMPORT.search(str(one)) for one in causes):
        _refuse("there is not enough memory")
    sys.__excepthook__(kind, error, trace)


def _require_descriptors() -> None:
    """End the process with one line if it may not open enough files for an event loop and connections."""
    opened = list[int]()
    try:
        opened += (os.dup(2) for _ in range(_LEAST_DESCRIPTORS))
    except OSError as error:
        _refuse(f"{error.strerror}: this process needs {_LEAST_DESCRIPTORS} more file descriptors")
    for descriptor in opened:
        os.close(descriptor)


def _refuse(reason: str) -> Never:
    sys.stderr.write(f"error: {reason}\n")
    os._exit(ERROR)


def _open_closed_descriptors() -> None:
    """Open 0, 1 and 2 where they are closed, so that no socket or file gets their numbers.

    Writes to them go nowhere. Reads from standard input fail: an empty one would look like an empty file.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_WRONLY), True)  # noqa: FBT003  (it takes the lowest number)


def _stream(descriptor: int, before: object) -> io.TextIOWrapper:
    """Return a text stream on *descriptor* in the encoding of *before*; it escapes characters the encoding lacks."""
    raw = _StandardStream(descriptor, "w", closefd=False)
    encoding = getattr(before, "encoding", None) or "utf-8"
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding=encoding, errors="backslashreplace", line_buffering=True, write_through=True
    )


def _failure_of_output() -> OSError | None:
    """Return the error that stopped standard output, or None. A pipe that its reader has closed is no error."""
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    failure = raw.failure if isinstance(raw, _StandardStream) else None
    return None if failure is None or failure.errno == errno.EPIPE else failure
