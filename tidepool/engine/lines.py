"""Writes arq's log lines about jobs, under the names of arq's loggers: people have alerts on them."""

import logging

import structlog
from arq.utils import args_to_string, truncate

from tidepool.jobs.job import Job
from tidepool.logs import printable, text_of
from tidepool.queue.wire import now_ms

_MAX_SHOWN = 200
"""Max characters of a job's id or a function's name in a log line."""
_DELAY_SHOWN_S = 1.2
"""The log line of a job's start shows its delay if it is longer than this, as in arq."""

failures = logging.getLogger("arq.worker")
per_job = logging.getLogger("arq.worker.job")
"""Logs arq's two lines about each job. They cost more than the job itself, so a worker shows them at DEBUG only, and
callers of `log_start` and `log_success` check first that INFO is enabled. As in arq, `log_results=False` hides results;
the engine's option `log_arguments=False` hides arguments."""


def log_start(job: Job, *, with_arguments: bool) -> None:
    """Log that the attempt at a job begins."""
    delayed_s = (job.started_ms - job.due_ms) / 1000
    extra = f" try={job.attempt}" if job.attempt > 1 else ""
    extra += f" delayed={delayed_s:0.2f}s" if delayed_s > _DELAY_SHOWN_S else ""
    waited_s = (job.started_ms - job.enqueued_ms) / 1000
    text = args_to_string(job.args, job.kwargs) if with_arguments else "…"
    per_job.info("%6.2fs → %s(%s)%s", waited_s, shown_ref(job), text, extra)


def log_success(job: Job, result: object, *, with_result: bool) -> None:
    """Log that a job has succeeded."""
    text = "" if result is None or not with_result else truncate(repr(result))
    per_job.info("%6.2fs ← %s ● %s", since_s(job.started_ms), shown_ref(job), text)


def log_retry(job: Job, delay_s: float) -> None:
    """Log that a job will be run again because it asked for that, *delay_s* seconds from now."""
    if per_job.isEnabledFor(logging.INFO):
        per_job.info("%6.2fs ↻ %s retrying job in %0.2fs", since_s(job.started_ms), shown_ref(job), delay_s)


def log_cancellation(job: Job) -> None:
    """Log that a job was cancelled and will be run again."""
    if per_job.isEnabledFor(logging.INFO):
        per_job.info("%6.2fs ↻ %s cancelled, will be run again", since_s(job.started_ms), shown_ref(job))


def log_failure(job: Job, error: BaseException) -> None:
    """Log that a job has failed for good, with the traceback of *error*."""
    extra = {"extra": _extra(error), "function": job.function[:_MAX_SHOWN]}
    words = (since_s(job.started_ms), shown_ref(job), type(error).__name__, text_of(error))
    failures.error("%6.2fs ! %s failed, %s: %s", *words, exc_info=error, extra=extra)


def log_hook(name: str, job: Job) -> None:
    """Log the error that a hook has raised; to be called while it is handled."""
    structlog.get_logger(__name__).exception("hook.failed", hook=name, job_id=shown_id(job))


def log_observer(job: Job) -> None:
    """Log the error that the observer has raised about the end of a job; to be called while it is handled."""
    structlog.get_logger(__name__).exception("observer.failed", job_id=shown_id(job))


def since_s(time_ms: int) -> float:
    """Return the seconds since *time_ms* (Unix milliseconds)."""
    return (now_ms() - time_ms) / 1000


def shown_id(job: Job) -> str:
    """Return the job's id for a log line: other than ASCII characters escaped, cut to 200 characters."""
    return ascii(job.queue_id[:_MAX_SHOWN])[1:-1][:_MAX_SHOWN]


def shown_ref(job: Job) -> str:
    """Return the job's id and function for a log line: unprintable characters escaped, cut to 200 characters."""
    return printable(job.ref, _MAX_SHOWN)


def _extra(error: BaseException) -> object:
    """Return the details that an exception adds to its log line: its attribute or method `extra`, as in arq.

    None if it has another meaning there, so that reading or calling it raises an error.
    """
    try:
        extra = getattr(error, "extra", None)
        return extra() if callable(extra) else extra
    except Exception:  # noqa: BLE001  (an application's own code)
        return None
