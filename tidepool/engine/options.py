"""The settings of the engine that arq has no place for."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from arq.connections import ArqRedis

from tidepool.engine.intake import Intake

Context: TypeAlias = dict[Any, Any]
"""arq's ctx: what the startup hook has put in, and the job's id, attempt, enqueue time and score."""


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Settings that arq has no place for: the value of `ctx["engine"]`. All of them are optional.

    *owner* is the name of the process in Redis. *connect* makes the connection instead of arq's `create_pool`.
    *intake* runs the jobs of declared types.

    While *may_claim* returns False, no new jobs are claimed; those that are here go on. *beaten* is called with every
    heartbeat. While *is_ready* returns False, the key that `arq --check` reads is not renewed and expires.

    *max_job_bytes* is the limit of a job's content in Redis: a larger one is never read, and its result is an error.
    While the jobs here have *max_held_bytes* together or more, no others are claimed. Jobs of less than 4 KiB are not
    counted, since `max_jobs` bounds them. The arguments of a job of more than *max_kept_bytes* are kept neither while
    it runs nor in its result; None: they are, as in arq. *log_arguments*: the line of a job's start shows them.
    """

    owner: str = ""
    lease_s: float = 5.0
    connect: Callable[[], Awaitable[ArqRedis]] | None = None
    intake: Intake | None = None
    may_claim: Callable[[], bool] = lambda: True
    beaten: Callable[[], None] = lambda: None
    is_ready: Callable[[], bool] = lambda: True
    max_job_bytes: int = 64 * 1024 * 1024
    max_held_bytes: int = 64 * 1024 * 1024
    max_kept_bytes: int | None = None
    log_arguments: bool = True
