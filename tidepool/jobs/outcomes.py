"""Defines the outcomes that a job can have, and the verdicts that a handler can return.

A handler returns a *verdict* on each job: `Applied`, `Rejected`, which the function of a single job raises as `Reject`,
or `Unresolved` if the job's arguments name something that does not exist yet. From verdicts and errors the ledger
derives the job's *outcome*, which is final and stored: `Applied`, `Rejected` or `Failed`. Three other classes are not
outcomes, but say how the job is run again: `RetryLater` after a delay, as a new attempt; `Release` by any worker,
without counting an attempt; `LookAgain` in this process, when the batches that were running have ended.
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
        """Return a new member with the value *code* and the attribute *words*."""
        member = str.__new__(cls, code)
        member._value_ = code
        member.words = words
        return member


class CommonReason(Reason):
    """The reasons that the library itself has for rejecting jobs, in every application."""

    INVALID = "invalid", "the job's content is not valid"
    ABORTED = "aborted", "the job was aborted before it was applied"


@dataclass(frozen=True, slots=True)
class Applied:
    """The outcome of a job whose effect is committed. *result* is a value of JSON, such as `{"user_id": 7}`."""

    result: object

    def as_result(self) -> dict[str, object]:
        """Return what a client gets from arq's `Job.result()` for an applied job."""
        return {"status": "applied", "result": self.result}


@dataclass(frozen=True, slots=True)
class Rejected:
    """The outcome of a job that has no effect, because a rule forbids the effect or the arguments are invalid.

    Running the job again cannot help.
    """

    reason: str
    """A `Reason`, or the code of a reason that only another version of the application knows."""
    detail: str = ""
    """An explanation for people, without values of the job's arguments. Default: the words of the reason."""
    is_newer: bool = field(default=False, compare=False)
    """Whether a newer version may accept the job, because its only fault is an unknown function or unknown fields."""

    def __post_init__(self) -> None:
        if not self.detail:
            words = self.reason.words if isinstance(self.reason, Reason) else self.reason
            object.__setattr__(self, "detail", words)

    def as_result(self) -> dict[str, object]:
        """Return what a client gets from arq's `Job.result()` for a rejected job."""
        return {"status": "rejected", "reason": self.reason, "error": self.detail}


class Reject(Exception):
    """Raised by a job's function to reject the job: its effects are undone, and it is not tried again.

    *reason* is a code, such as `not_payable`, or a `Reason`; *detail* explains it to people, without values of the
    job's arguments.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.rejected = Rejected(reason, detail)

    def __str__(self) -> str:
        return f"{self.rejected.reason}: {self.rejected.detail}"


class Settled(BaseException):
    """Ends the function of a job that another run has completed, so that it does nothing more.

    It is no `Exception`, so a function's `except Exception` does not catch it. The engine does.
    """


class HandlerError(Exception):
    """A job's function raised an error, took too long, or needs something that PostgreSQL lacks; the text says what.

    `__cause__` is the function's own error, if there is one.
    """

    @classmethod
    def of(cls, error: Exception) -> "HandlerError":
        """Return *error*, raised by a job's function, as an error of this class; the caller adds the cause."""
        return error if isinstance(error, cls) else cls(f"{type(error).__name__}: {error}")


@dataclass(frozen=True, slots=True)
class Unresolved:
    """A verdict: the job's arguments name something that does not exist yet, such as a user that another job creates.

    The job is run again, and rejected with *reason* when its attempts are used up.
    """

    reason: Reason


@dataclass(frozen=True, slots=True)
class Failed:
    """The outcome of a job that was given up after its attempts. *error* is what went wrong at the last attempt."""

    error: str


@dataclass(frozen=True, slots=True)
class RetryLater:
    """Returned in place of an outcome: the job is run again after a delay, and this attempt counts."""

    delay_s: float = 0.0
    """Seconds until the job is due again; 0: it gets its old place in the queue."""
    cause: str = field(default="", compare=False)
    """Why the attempt failed; Redis keeps it for clients until the job runs again."""


@dataclass(frozen=True, slots=True)
class Release:
    """Returned in place of an outcome: the job goes back into the queue unchanged, and this attempt does not count."""

    delay_ms: int = 0
    """Milliseconds until the job is due again; 0: it gets its old place in the queue."""
    may_be_recalled: bool = False
    """Whether a worker may make the job due before the delay is over."""


@dataclass(frozen=True, slots=True)
class LookAgain:
    """Returned in place of an outcome: the handler is called again for the job when the present batches have ended.

    The present batches are those that this process is running now.
    """


Verdict = Applied | Rejected | Unresolved
Outcome = Applied | Rejected | Failed


def outcome_of_plain(error: BaseException | None, words: str, *, is_aborted: bool) -> Outcome:
    """Return the outcome of a plain function's job that has ended with *error*, whose text is *words*."""
    if error is None:
        return Applied(None)
    if is_aborted:
        return Rejected(CommonReason.ABORTED, words)
    return error.rejected if isinstance(error, Reject) else Failed(words)


def retry_delay_s(error: BaseException) -> float | None:
    """Return after how many seconds a job is to run again that has raised *error*, arq's `Retry`; None for others."""
    if type(error).__name__ != "Retry" or not hasattr(error, "defer_score"):
        return None  # recognised by its shape: only the engine imports arq
    return (getattr(error, "defer_score", None) or 0) / 1000
