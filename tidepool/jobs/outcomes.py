"""What can become of a job.

A handler answers each command with a *verdict*: `Applied`, `Rejected`, or `Unresolved` where the
command names something that may still come. The ledger turns verdicts and errors into the job's
*outcome*, which is final and stored: `Applied`, `Rejected` or `Failed`; or into `RetryLater`, which
is not an outcome but sends the job back to the queue. This module imports nothing of ours.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Reason(StrEnum):
    """Why a job was rejected: the code that programs see."""

    INVALID = "invalid"
    USERNAME_TAKEN = "username_taken"
    EMAIL_TAKEN = "email_taken"
    SKU_TAKEN = "sku_taken"
    UNKNOWN_USER = "unknown_user"
    UNKNOWN_PRODUCT = "unknown_product"
    OUT_OF_STOCK = "out_of_stock"
    INACTIVE_USER = "inactive_user"
    ABORTED = "aborted"

    @property
    def words(self) -> str:
        """The reason as a person reads it."""
        return _WORDS[self]


_WORDS = {
    Reason.INVALID: "the job's content is not valid",
    Reason.USERNAME_TAKEN: "another user has this username",
    Reason.EMAIL_TAKEN: "another user has this email",
    Reason.SKU_TAKEN: "another product has this sku",
    Reason.UNKNOWN_USER: "there is no such user",
    Reason.UNKNOWN_PRODUCT: "there is no such product",
    Reason.OUT_OF_STOCK: "the product is out of stock",
    Reason.INACTIVE_USER: "the user is not active",
    Reason.ABORTED: "the job was aborted before it was applied",
}


@dataclass(frozen=True, slots=True)
class Applied:
    """The effect is committed. *result* is a JSON object, such as `{"user_id": 7}`."""

    result: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Rejected:
    """A rule said no, or the content is invalid; repeating cannot help. *detail* has no content of the job."""

    reason: str
    """A `Reason`, or the word of a newer version that this one does not know."""
    detail: str = ""

    def __post_init__(self) -> None:
        if not self.detail:
            object.__setattr__(self, "detail", Reason(self.reason).words)


@dataclass(frozen=True, slots=True)
class Unresolved:
    """The command names a user or product that is not there.

    It may be on its way, so the job is tried again, and rejected with *reason* when its tries are used up.
    """

    reason: Reason


@dataclass(frozen=True, slots=True)
class Failed:
    """Given up after the tries; *error* says what went wrong at the last one."""

    error: str


@dataclass(frozen=True, slots=True)
class RetryLater:
    """Not an outcome: run the job again in *delay_s* seconds, because of *cause*.

    A delay of 0: not by way of the queue, but as soon as the batches that are under way now have ended.
    """

    delay_s: float
    cause: str = field(default="", compare=False)


Verdict = Applied | Rejected | Unresolved
Outcome = Applied | Rejected | Failed
