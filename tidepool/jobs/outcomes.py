"""The results that a job can have.

A handler answers each command with a *verdict*: `Applied`, `Rejected`, or `Unresolved` if the command names something
that may still come. The ledger makes of verdicts and errors the job's *outcome*, which is final and stored: `Applied`,
`Rejected` or `Failed`. `RetryLater` and `LookAgain` are no outcomes: the job is run again. This module imports nothing
of ours.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self


class Reason(StrEnum):
    """Why a job was rejected: the code that programs see, with a sentence for people.

    An application declares its own in a subclass: `OUT_OF_STOCK = "out_of_stock", "the product is out of stock"`.
    """

    words: str
    """The reason as a person reads it."""

    def __new__(cls, code: str, words: str) -> Self:
        """Make a member of its code and its words."""
        member = str.__new__(cls, code)
        member._value_ = code
        member.words = words
        return member


class CommonReason(Reason):
    """The reasons that jobs of any application can be rejected for."""

    INVALID = "invalid", "the job's content is not valid"
    ABORTED = "aborted", "the job was aborted before it was applied"


@dataclass(frozen=True, slots=True)
class Applied:
    """The effect is committed. *result* is a JSON object, such as `{"user_id": 7}`."""

    result: dict[str, Any]

    def as_result(self) -> dict[str, object]:
        """Return what arq's `Job.result()` returns for such a job."""
        return {"status": "applied", "result": self.result}


@dataclass(frozen=True, slots=True)
class Rejected:
    """A rule said no, or the content is invalid; to repeat the job cannot help."""

    reason: str
    """A `Reason`, or the code of one that another version knows."""
    detail: str = ""
    """Explanation without content of the job. Default: the words of the reason."""
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
    """The command names something that is not there.

    It may be on its way, so the job is tried again, and rejected with *reason* when its tries are used up.
    """

    reason: Reason


@dataclass(frozen=True, slots=True)
class Failed:
    """Given up after the tries; *error* says what went wrong at the last one."""

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
