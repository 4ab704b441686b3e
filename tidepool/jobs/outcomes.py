"""The outcomes that a job can have.

A handler returns a *verdict* on each command: `Applied`, `Rejected`, or `Unresolved` if the command names something
that may still come. From verdicts and errors the ledger derives the job's *outcome*, which is final and stored:
`Applied`, `Rejected` or `Failed`. `RetryLater` and `LookAgain` are not outcomes: they say how the job is run again.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Self


class Reason(StrEnum):
    """Why a job was rejected: a code for programs, and a sentence for people.

    An application declares its own in a subclass: `OUT_OF_STOCK = "out_of_stock", "the product is out of stock"`.
    """

    words: str
    """The sentence for people."""

    def __new__(cls, code: str, words: str) -> Self:
        """Return a member with its code and its words."""
        member = str.__new__(cls, code)
        member._value_ = code
        member.words = words
        return member


class CommonReason(Reason):
    """The reasons for which jobs of every application can be rejected."""

    INVALID = "invalid", "the job's content is not valid"
    ABORTED = "aborted", "the job was aborted before it was applied"


@dataclass(frozen=True, slots=True)
class Applied:
    """The job's effect is committed. *result* is a JSON object, such as `{"user_id": 7}`."""

    result: dict[str, object]

    def as_result(self) -> dict[str, object]:
        """Return what arq's `Job.result()` returns for such a job."""
        return {"status": "applied", "result": self.result}


@dataclass(frozen=True, slots=True)
class Rejected:
    """The job has no effect, because of a rule or of invalid arguments. To run it again cannot help."""

    reason: str
    """A `Reason`, or the code of one that only another version knows."""
    detail: str = ""
    """Explanation for people, without values of the job's arguments. Default: the words of the reason."""
    is_newer: bool = field(default=False, compare=False)
    """Whether a newer version may accept the job, because only a function or a field of it is not known here."""

    def __post_init__(self) -> None:
        if not self.detail:
            words = self.reason.words if isinstance(self.reason, Reason) else self.reason
            object.__setattr__(self, "detail", words)

    def as_result(self) -> dict[str, object]:
        """Return what arq's `Job.result()` returns for such a job."""
        return {"status": "rejected", "reason": self.reason, "error": self.detail}


@dataclass(frozen=True, slots=True)
class Unresolved:
    """The command names something that does not exist yet, such as a user that another job creates.

    The job is run again, and rejected with *reason* when its attempts are used up.
    """

    reason: Reason


@dataclass(frozen=True, slots=True)
class Failed:
    """The job was given up after its attempts. *error* says what went wrong at the last one."""

    error: str


@dataclass(frozen=True, slots=True)
class RetryLater:
    """Not an outcome: put the job back into the queue, to be run again in *delay_s* seconds, because of *cause*."""

    delay_s: float
    cause: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class LookAgain:
    """Not an outcome: ask the handler again as soon as the batches that are under way now have ended."""


Verdict = Applied | Rejected | Unresolved
Outcome = Applied | Rejected | Failed
