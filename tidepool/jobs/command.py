"""Defines the base class of a job's arguments, a pydantic model, and explains wrong arguments.

Commands are strict: text is not accepted as a number, nor a number as a boolean, and unknown fields are refused. Text
must be storable: PostgreSQL cannot hold NUL, and UTF-8 has no lone surrogates.
"""

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, ValidationError
from pydantic_core import CoreSchema, ErrorDetails

from tidepool.jobs.outcomes import CommonReason, Rejected

_STORABLE = r"^[^\x00]*$"
"""A regular expression for text without NUL characters."""
_MAX_ERRORS = 5
"""Max errors of one command that are explained; the others are only counted."""
_UNKNOWN_FIELD = "extra_forbidden"
"""The type of pydantic's error for an unknown field."""
_MAX_NAME_CHARACTERS = 60
"""Max characters of a field's name in an explanation: a sender can invent names of any length."""
_pattern_words: dict[str, str] = {}
"""The explanation, by pattern, for text that does not match it."""


def describe_pattern(pattern: str, words: str) -> str:
    """Register *words* as the explanation for text that does not match *pattern*, and return *pattern*.

    Use it as the `pattern` of a pydantic `Field`. That takes a tenth of the time of a validator in Python, because
    pydantic matches patterns in Rust.
    """
    _pattern_words[pattern] = words
    return pattern


class _NotNull:
    """Makes an optional field refuse null, whose meaning would be unclear: a sender leaves it out instead."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema = handler(source)
        return schema["schema"] if schema["type"] == "nullable" else schema


T = TypeVar("T")
LeftOut = Annotated[T | None, _NotNull()]
"""The type of a field that a sender may leave out but may not set to null. It is None if it is left out."""


class Command(BaseModel):
    """The base class of the arguments of a job type. It is strict and immutable, and refuses unknown fields."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", hide_input_in_errors=True)

    def require_exactly_one(self, first: str, second: str) -> None:
        """Raise `ValueError` unless exactly one of the fields *first* and *second* is set. For model validators."""
        if (getattr(self, first) is None) == (getattr(self, second) is None):
            raise ValueError(f"give exactly one of {first} and {second}")


Text = Annotated[str, Field(pattern=describe_pattern(_STORABLE, "has a NUL character"))]
"""The type of text that PostgreSQL can store. Commands add the length limits of their columns."""


def rejection_of(error: ValidationError | RecursionError) -> Rejected:
    """Convert the error of a command's validation to a rejection, which names wrong fields but repeats no values."""
    if isinstance(error, RecursionError):
        return Rejected(CommonReason.INVALID, "is nested too deeply")
    details = error.errors(include_input=False, include_url=False)
    shown = [_explain(detail) for detail in details[:_MAX_ERRORS]]
    more = len(details) - len(shown)
    text = "; ".join(shown) + (f"; and {more} more" if more else "")
    return Rejected(CommonReason.INVALID, text, is_newer=all(detail["type"] == _UNKNOWN_FIELD for detail in details))


def _explain(detail: ErrorDetails) -> str:
    """Return the explanation of one error: the field's name, escaped and cut, and what is wrong with it."""
    name = ascii(".".join(map(str, detail["loc"])))[1:-1][:_MAX_NAME_CHARACTERS]
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "string_pattern_mismatch":
        message = _pattern_words.get(detail.get("ctx", {})["pattern"], message)
    return f"{name}: {message}" if name else message
