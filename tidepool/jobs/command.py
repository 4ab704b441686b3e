"""The base class of a job's arguments, a pydantic model, and the explanation of wrong arguments.

Commands are strict: text is not accepted as a number, nor a number as a boolean, and unknown fields are refused. Text
must be storable: PostgreSQL cannot hold NUL, and UTF-8 has no lone surrogates.
"""

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, ValidationError
from pydantic_core import CoreSchema, ErrorDetails

from tidepool.jobs.outcomes import CommonReason, Rejected

_STORABLE = r"^[^\x00]*$"
"""Text without NUL."""
_MAX_ERRORS = 5
"""Errors of one command that are explained; the others are counted."""
_UNKNOWN_FIELD = "extra_forbidden"
"""pydantic's type of the error that a field is not known."""
_MAX_NAME_CHARACTERS = 60
"""Of a field's name, which may be the sender's."""
_pattern_words: dict[str, str] = {}
"""By pattern: how text that does not match it is explained."""


def describe_pattern(pattern: str, words: str) -> str:
    """Return *pattern* for a pydantic field, and explain text that does not match it with *words* from now on.

    A pattern costs a tenth of a validator in Python, because pydantic checks it in Rust.
    """
    _pattern_words[pattern] = words
    return pattern


class _NotNull:
    """Makes an optional field refuse null. It can be left out instead, so that null has no unclear meaning."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema = handler(source)
        return schema["schema"] if schema["type"] == "nullable" else schema


T = TypeVar("T")
LeftOut = Annotated[T | None, _NotNull()]
"""The type of a field that may be left out, and is None then, but may not be given as null."""


class Command(BaseModel):
    """The base class of the arguments of a job type. It is strict and immutable, and refuses unknown fields."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", hide_input_in_errors=True)

    def require_exactly_one(self, first: str, second: str) -> None:
        """Raise `ValueError` unless exactly one of two fields is given. For pydantic's model validators."""
        if (getattr(self, first) is None) == (getattr(self, second) is None):
            raise ValueError(f"give exactly one of {first} and {second}")


Text = Annotated[str, Field(pattern=describe_pattern(_STORABLE, "has a NUL character"))]
"""Text that PostgreSQL can store. Commands add the limits of their columns."""


def rejection_of(error: ValidationError | RecursionError) -> Rejected:
    """Return the rejection of a command that does not validate. It names the fields, and does not repeat values."""
    if isinstance(error, RecursionError):
        return Rejected(CommonReason.INVALID, "is nested too deeply")
    details = error.errors(include_input=False, include_url=False)
    shown = [_explain(detail) for detail in details[:_MAX_ERRORS]]
    more = len(details) - len(shown)
    text = "; ".join(shown) + (f"; and {more} more" if more else "")
    return Rejected(CommonReason.INVALID, text, is_newer=all(detail["type"] == _UNKNOWN_FIELD for detail in details))


def _explain(detail: ErrorDetails) -> str:
    """Return the name of a field, escaped and cut, and what is wrong with it."""
    name = ascii(".".join(map(str, detail["loc"])))[1:-1][:_MAX_NAME_CHARACTERS]
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "string_pattern_mismatch":
        message = _pattern_words.get(detail.get("ctx", {})["pattern"], message)
    return f"{name}: {message}" if name else message
