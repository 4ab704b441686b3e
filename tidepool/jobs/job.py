"""A job, and the declaration of a job type."""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, LiteralString, TypeVar, cast

from pydantic import ValidationError

from tidepool.jobs.command import Command, explain
from tidepool.jobs.outcomes import CommonReason, Reason, Rejected, Verdict
from tidepool.pool.connection import Connection as Transaction

__all__ = ["Job", "JobType", "JobTypes", "Transaction"]

MOST_FIELDS = 100
"""Content with more is no command: going through 100,000 unknown fields holds the worker up for half a second."""

C = TypeVar("C", bound=Command)
C_co = TypeVar("C_co", bound=Command, covariant=True)


@dataclass(frozen=True, slots=True)
class Job(Generic[C_co]):
    """One command in the queue.

    *id* is the key of its ledger row; handlers use it where a table keeps its own guard against doubles.
    """

    id: str
    command: C_co


Handler = Callable[[Transaction, Sequence[Job[C]]], Awaitable[Sequence[Verdict]]]


@dataclass(frozen=True, slots=True)
class JobType(Generic[C]):
    """A kind of job: its name in the queue, the model of its content, and what to do with a batch of it.

    The *handler* is given the open transaction and the jobs of a batch, and returns one verdict for each job, in
    order. It neither commits nor catches database errors: the ledger does. *constraints* names the constraints of its
    tables that a job can break, each with the reason that the job is then rejected for. *grants* says what the handler
    may do in PostgreSQL, each as a GRANT statement says it before TO: `"SELECT, INSERT ON orders"`. `migrate --roles`
    grants that to the role `tidepool_work`, which workers log in as in production.
    """

    name: str
    command: type[C]
    handler: Handler[C]
    constraints: Mapping[str, Reason] = field(default_factory=dict[str, Reason])
    grants: Sequence[LiteralString] = ()

    def parse(self, content: Any) -> C | Rejected:
        """Validate *content*, the decoded fields of a job; never raises for what a sender can write."""
        if isinstance(content, dict) and len(cast("dict[Any, Any]", content)) > MOST_FIELDS:
            return Rejected(CommonReason.INVALID, f"has more than {MOST_FIELDS} fields")
        try:
            return self.command.__pydantic_validator__.validate_python(content)
        except (ValidationError, RecursionError) as error:
            return Rejected(CommonReason.INVALID, explain(error))


class JobTypes:
    """The kinds of jobs by name. A second one of the same name is an error at start."""

    def __init__(self, types: Iterable[JobType[Any]]) -> None:
        self._types: dict[str, JobType[Any]] = {}
        for job_type in types:
            if job_type.name in self._types:
                raise ValueError(f"two kinds of jobs are called {job_type.name!r}")
            self._types[job_type.name] = job_type

    def get(self, name: str) -> JobType[Any] | None:
        """Return the kind called *name*, or None."""
        return self._types.get(name)

    def __iter__(self) -> Iterator[JobType[Any]]:
        return iter(self._types.values())
