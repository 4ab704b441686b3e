"""Logging: structlog for ours and for everybody else's lines, to standard error.

Readable on a terminal, one JSON object a line otherwise. No line has a job's fields or a password; ids
are the caller's, and are escaped. The events of the service, noun.past:

| event | level | when |
|---|---|---|
| `worker.started`, `worker.stopped` | info | a process began and ended its work |
| `jobs.settled` | info | every STATS_INTERVAL in which jobs were: outcomes and the pool's figures |
| `job.retried`, `job.failed` | error | a job's code raised; with its id and the traceback |
| `database.unavailable`, `database.back` | warning, info | once each an outage |
| `server.waited_for` | warning | PostgreSQL or Redis does not answer at the start |
| `budget.waiting` | warning | a new worker has to wait: the others hold all connections, or their number is not known |
| `budget.limited` | warning | a worker begins with less than POOL_MAX_SIZE; with the numbers |
| `budget.changed` | info | the pool's limit went down or up |
| `budget.exceeded` | warning | the least of the workers that run is more than the server can give |
| `snapshot.late` | warning | a sample could not be written yet and is kept |
| `front.sign_in_failed` | warning | a caller of the front gave a wrong token; with its address |
| `migration.applied` | info | a schema migration was applied |
"""

import logging
import sys
from pathlib import Path
from typing import Any

import structlog


def configure(level: str) -> None:
    """Send all log lines of *level* and above through structlog. A second call replaces the first."""
    shared: list[Any] = [
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
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=_rendering()))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    _take_over_arq()


def last_line(path: Path) -> str:
    """Return what a process wrote into its log last: of one that could not start, why."""
    lines = path.read_text("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"


def printable(text: str) -> str:
    """Return *text* on one line, without anything that a terminal would obey."""
    return text if text.isprintable() else ascii(text)[1:-1]


def _rendering() -> list[Any]:
    strip = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    traceback = structlog.processors.format_exc_info
    if sys.stderr.isatty():
        # Plain tracebacks: the pretty ones print local variables, and so the content of jobs.
        console = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        return [strip, traceback, _on_its_own_line, console]
    return [strip, traceback, structlog.processors.JSONRenderer()]


def _on_its_own_line(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Keep what others wrote, such as a job's id, from looking like a line of ours; JSON does so by itself."""
    for name, value in event.items():
        if name == "exception":
            event[name] = "\n".join(f"    {printable(line)}" for line in value.splitlines())
        elif isinstance(value, str):
            event[name] = printable(value)
    return event


def _take_over_arq() -> None:
    """Undo the handler that the `arq` command has given arq's logger, and drop its two lines a job."""
    arq = logging.getLogger("arq")
    arq.handlers.clear()
    arq.propagate = True
    if logging.getLogger().level > logging.DEBUG:
        logging.getLogger("arq.worker.job").setLevel(logging.WARNING)
