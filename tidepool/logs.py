"""Configures logging: structlog formats all log lines, those of libraries included, and writes to standard error.

On a terminal the lines are formatted for people, otherwise each is a JSON object. No line has a job's fields or a
password. Job ids come from callers, so they are escaped. The events of the service, named noun.past:

| event | level | when |
|---|---|---|
| `worker.started`, `worker.stopped` | info | a process began and ended its work |
| `worker.left_jobs` | warning | a worker ended, and its jobs could not be put back: they run after its lease |
| `supervisor.started`, `supervisor.stopping` | info | the command `work` began; it got a signal |
| `worker.died` | warning | a supervisor replaces a worker that ended; with its status or signal |
| `worker.not_started` | warning | a supervisor could not start a worker process, and tries again after 0.1 to 10 s |
| `worker.replaced` | info | a supervisor replaces a worker that has run as many jobs as `--restart-after` says |
| `jobs.settled` | info | after each STATS_INTERVAL in which jobs ended: their outcomes and the pool's figures |
| `jobs.recovered` | info | jobs whose lease was over went back to the queue |
| `job.retried`, `job.failed` | error | a job's code raised; with its id and the traceback |
| `job.unsettled` | error | an error of ours, not the job's: the job runs again |
| `job.error_after_completion` | warning | a function raised after it had completed its job, which is applied |
| `job.left` | warning | a job that this worker does not understand is left to others; once per function |
| `job.dead_letter` | warning | a job that no worker understood was taken out of the queue; Redis keeps it |
| `job.content_dropped` | warning | the arguments of a job do not fit its row in the ledger, which has none then |
| `hook.failed` | error | a hook of arq's (`on_job_start` and the like) raised |
| `observer.failed` | error | how a job of a plain function ended could not be recorded; its result counts |
| `lease.lost` | warning | this worker's lease ended, so that others may run its jobs |
| `task.failed` | error | a background task raised; it goes on. At most once a minute |
| `database.unavailable`, `database.back` | warning, info | once per outage |
| `redis.unavailable`, `redis.back` | warning, info | once per outage |
| `redis.key_unusable` | warning | a key or value in Redis that no worker wrote was skipped; once for each |
| `redis.may_drop_jobs` | warning | at the start: `maxmemory-policy` is not `noeviction` |
| `server.waited_for` | warning | PostgreSQL or Redis does not answer at the start |
| `wakeup.unsupported` | info | Redis does not wake this worker, which looks every POLL_DELAY |
| `postgresql.no_channel_binding` | warning | the URL asks for channel binding, which the driver does not have |
| `budget.waiting` | warning | a new worker has to wait for connections or for Redis; with the cause and the numbers |
| `budget.limited` | warning | a worker begins with less than POOL_MAX_SIZE; with the numbers |
| `budget.changed` | info | the pool's limit went down or up |
| `budget.exceeded` | warning | the minimum of the workers that run is more than the server can give |
| `budget.entries_unusable` | warning | an entry of the budget that no worker wrote was skipped; once for each |
| `pool.event` | warning | a row of `pool_events` was written: *kind* and details |
| `snapshot.late` | warning | a sample could not be written yet and is kept |
| `history.unavailable`, `history.back` | warning, info | outcomes of plain functions wait, or are written again |
| `relay.unavailable`, `relay.back` | warning, info | the outbox is not copied to Redis for now, or is again |
| `outbox.id_in_use` | warning | jobs of the outbox were dropped: their ids are those of other jobs in Redis |
| `records.incomplete` | warning | a worker of an adopted application ended before all its records were written |
| `history.incomplete` | warning | a worker ended, and outcomes of plain functions are missing in the history |
| `advice.failed`, `prune.failed` | warning | PostgreSQL was away or refused it |
| `rows.pruned` | info | old snapshots and ledger rows were deleted |
| `retention.longer` | warning | another worker keeps rows for longer, and its setting counts |
| `front.sign_in_failed` | warning | a caller of the front gave a wrong token; with its address |
| `migration.applied` | info | a schema migration was applied |
| `migration.waits` | warning | a migration waits for a lock; with the process that holds it |
| `migrations.newer` | warning | the database is newer than this process, which can work with it |
| `log.dropped` | warning | lines that could not be written, as their reader stopped or the disk was full: *count* |

Lines go through a bounded queue (`tidepool.log_queue`), so that an output that is blocked does not stop the process.
An error that repeats is logged each time, but its traceback only once a minute for each function and place. Long
values are cut.
"""

import atexit
import logging
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

import structlog

from tidepool.log_queue import LogQueue

_MAX_VALUE = 4_000
_MAX_TRACEBACK = 10_000
"""Max characters of a traceback; those of any other value are `_MAX_VALUE`."""
_MAX_ERROR = 500
_TRACEBACK_PERIOD_S = 60.0
_MAX_PLACES = 200
"""Max places that are remembered, and so the max tracebacks a minute, however many kinds of errors there are."""

_queue: LogQueue | None = None


def configure(level: str) -> None:
    """Set up logging to standard error through structlog, for lines of *level* (such as INFO) and above.

    A second call replaces the first.
    """
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.ExtraAdder(("count", "function")), *shared], processors=_rendering()
    )
    handler = _handler(formatter)
    handler.setFormatter(formatter)
    logging.basicConfig(level=level, handlers=[handler], force=True)
    _take_over_arq()


def say(line: str) -> None:
    """Print *line* to standard error, after everything that was logged before it."""
    if _queue is None:
        print(line, file=sys.stderr)  # noqa: T201  (nothing is configured yet)
    else:
        _queue.put(f"{line}\n")


def printable(text: str, max_characters: int | None = None) -> str:
    """Return *text* unchanged if it is printable; else with all characters but ASCII's printable ones escaped.

    The text is cut to *max_characters*, before and after it is escaped; None: the text is not cut.
    """
    start = text[:max_characters]
    return start if start.isprintable() else ascii(start)[1:-1][:max_characters]


def text_of(error: BaseException) -> str:
    """Return `str(error)`, or a note in its place if an application's `__str__` raises an error."""
    try:
        return str(error)
    except Exception:  # noqa: BLE001
        return "(its text cannot be read)"


def _rendering() -> list[structlog.typing.Processor]:
    strip = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    limit, formatted = TracebackLimit(), structlog.processors.format_exc_info
    if sys.stderr.isatty():
        # Plain tracebacks: the pretty ones print local variables, and so the content of jobs.
        console = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        return [strip, limit, formatted, _cut, _on_its_own_line, console]
    return [strip, limit, formatted, _cut, structlog.processors.JSONRenderer()]


class TracebackLimit:
    """Removes an error's traceback from its log line if one from the same place was logged in the last minute.

    The place of an error is the function of the job (or else the logger), the error's type, and the line of code that
    raised it. The log line keeps the error's text; the next line with a traceback has the number of those left out
    (`tracebacks_left_out`).
    """

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._places: dict[tuple[object, ...], _Place] = {}

    def __call__(self, _logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        """Process one log event, as a structlog processor; return it, changed in place."""
        error = _error_of(event.get("exc_info"))
        if error is None:
            return event
        event.setdefault("error", _shortened(f"{type(error).__name__}: {text_of(error)}", _MAX_ERROR))
        place = self._place((event.get("function", event.get("logger")), *_place_of(error)))
        if place is None or self._now_s() < place.until_s:
            del event["exc_info"]
            if place is not None:
                place.left_out += 1
            return event
        if place.left_out:
            event["tracebacks_left_out"] = place.left_out
        place.until_s, place.left_out = self._now_s() + _TRACEBACK_PERIOD_S, 0
        return event

    def _place(self, key: tuple[object, ...]) -> "_Place | None":
        """Return the place with this *key*, a new one if necessary; None if too many places are remembered."""
        if key not in self._places and len(self._places) >= _MAX_PLACES:
            now_s = self._now_s()
            self._places = {known: place for known, place in self._places.items() if now_s < place.until_s}
            if len(self._places) >= _MAX_PLACES:
                return None
        return self._places.setdefault(key, _Place())


@dataclass(slots=True)
class _Place:
    until_s: float = 0.0
    """When the next traceback of this place may be logged, in seconds of the limit's clock."""
    left_out: int = 0


def _error_of(exc_info: object) -> BaseException | None:
    """Return the exception that *exc_info* means, in any form that `logging` takes; None if there is none."""
    if isinstance(exc_info, BaseException):
        return exc_info
    if isinstance(exc_info, tuple):
        return exc_info[1]
    return sys.exc_info()[1] if exc_info else None


def _place_of(error: BaseException) -> tuple[str, str, int]:
    """Return the name of the error's type, and the file and the line number that raised it."""
    name = f"{type(error).__module__}.{type(error).__qualname__}"
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    return (name, frame.tb_frame.f_code.co_filename, frame.tb_lineno) if frame else (name, "", 0)


def _cut(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Shorten the long values of a log event, as a structlog processor."""
    for name, value in event.items():
        if value is None or isinstance(value, (bool, int, float)):
            continue
        text = value if isinstance(value, str) else repr(value)
        limit = _MAX_TRACEBACK if name == "exception" else _MAX_VALUE
        if len(text) > limit:
            event[name] = _shortened(text, limit)
    return event


def _shortened(text: str, limit: int) -> str:
    """Return *text*; if it has more than *limit* characters, cut its middle, as a traceback's end says most."""
    if len(text) <= limit:
        return text
    return f"{text[: limit // 4]} ... [{len(text) - limit} characters cut] ... {text[-(limit - limit // 4) :]}"


class _QueueHandler(logging.Handler):
    """Logging handler that formats records in the thread that logs them, and puts the lines into the queue."""

    def __init__(self, queue: LogQueue) -> None:
        super().__init__()
        self._lines = queue

    def emit(self, record: logging.LogRecord) -> None:
        """Format and queue one record; if that fails, queue a line that says so."""
        try:
            line = self.format(record)
        except Exception as error:  # noqa: BLE001  (no log line may end what logs it)
            line = f"log.unreadable logger={record.name!r} error={type(error).__name__}"
        self._lines.put(f"{line}\n")


def _handler(formatter: logging.Formatter) -> logging.Handler:
    """Return the handler of all loggers. It writes through a queue, unless standard error is closed or is no file."""
    global _queue  # noqa: PLW0603  (the process has one standard error)
    fd = _descriptor()
    if fd is None:
        return logging.StreamHandler(sys.stderr) if sys.stderr else logging.NullHandler()
    if _queue is not None:
        _end(_queue)
    _queue = LogQueue(fd, lambda count: _dropped_line(formatter, count))
    atexit.register(_end, _queue)
    sys.excepthook = _say_uncaught
    return _QueueHandler(_queue)


def _descriptor() -> int | None:
    try:
        return sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):
        return None


def _end(queue: LogQueue) -> None:
    """Write the queued lines, waiting up to two seconds; if that succeeds, `say` prints directly from then on."""
    global _queue  # noqa: PLW0603
    atexit.unregister(_end)
    if queue.close() and _queue is queue:
        _queue = None


def _dropped_line(formatter: logging.Formatter, count: int) -> str:
    about = {"levelno": logging.WARNING, "levelname": "WARNING", "count": count}
    record = logging.makeLogRecord({"name": __name__, "msg": "log.dropped", "args": (), **about})
    return f"{formatter.format(record)}\n"


def _say_uncaught(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
    """Print the traceback of the error that ends the process; through the queue, so that a full pipe cannot block."""
    say("".join(traceback.format_exception(kind, error, where)).rstrip("\n"))


def _on_its_own_line(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Escape line breaks in a log event's values, so that a job's id, for example, cannot look like a log line.

    A structlog processor for terminals; JSON has its own escapes.
    """
    for name, value in event.items():
        if name == "exception":
            event[name] = "\n".join(f"    {printable(line)}" for line in value.splitlines())
        elif isinstance(value, str):
            event[name] = printable(value)
    return event


def _take_over_arq() -> None:
    """Remove the handler that the `arq` command gave arq's logger, and hide its two lines for each job.

    The lines are shown at the level DEBUG.
    """
    arq = logging.getLogger("arq")
    arq.handlers.clear()
    arq.propagate = True
    if logging.getLogger().level > logging.DEBUG:
        logging.getLogger("arq.worker.job").setLevel(logging.WARNING)
