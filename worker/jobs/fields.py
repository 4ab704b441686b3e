"""The field types that commands are made of, and how a wrong field is told.

Commands are strict: no text is read as a number, no number as a truth value, unknown fields are
refused. Money is decimal text and never passes through a float. Text must be storable: PostgreSQL
has no place for NUL, nor UTF-8 for lone surrogates.
"""

import re
from decimal import Decimal
from typing import Annotated, Any, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    ValidationError,
    WithJsonSchema,
)
from pydantic_core import CoreSchema, ErrorDetails

_STORABLE = r"^[^\x00]*$"
_EMAIL = r"^[^@\s\x00\x1c-\x1f]+@[^@\s\x00\x1c-\x1f]+$"
_WORDS = {
    _STORABLE: "has a NUL character",
    _EMAIL: "must have one @, no spaces, and something on both sides",
}
"""What does not match a pattern, in words. pydantic checks patterns in Rust, at a tenth of a Python function's cost,
and refuses text with a lone surrogate before."""
_MONEY = re.compile(r"[+-]?[0-9]{1,30}(\.[0-9]{1,30})?")
_MOST_ERRORS_TOLD = 5
_UNKNOWN_FIELD = ": Extra inputs are not permitted"


class _NotNull:
    """Makes an optional field refuse null: it is left out instead, since what null should do is a guess."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema = handler(source)
        return schema["schema"] if schema["type"] == "nullable" else schema


T = TypeVar("T")
LeftOut = Annotated[T | None, _NotNull()]
"""The type of a field that may be left out, and is None then, but may not be given as null."""


class Command(BaseModel):
    """The base of all commands: strict, immutable, no fields but its own, no field given as null."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", hide_input_in_errors=True)

    def require_exactly_one(self, first: str, second: str) -> None:
        """Refuse the command unless one of its two fields is given, and not both."""
        if (getattr(self, first) is None) == (getattr(self, second) is None):
            raise ValueError(f"give exactly one of {first} and {second}")


def _decimal(value: object) -> object:
    if (isinstance(value, str) and _MONEY.fullmatch(value)) or (isinstance(value, int) and not isinstance(value, bool)):
        value = Decimal(value)
    if not isinstance(value, Decimal):
        raise ValueError('must be decimal text such as "12.50"')  # noqa: TRY004  (pydantic wants ValueError)
    return abs(value) if value.is_zero() else value  # no negative zero, and no arithmetic, which would round


Text = Annotated[str, Field(pattern=_STORABLE)]
"""Text that PostgreSQL can store; commands add the bounds of their columns."""
Name = Annotated[Text, Field(min_length=1, max_length=255)]
Username = Annotated[Text, Field(min_length=1, max_length=50)]
Sku = Annotated[Text, Field(min_length=1, max_length=64)]
Email = Annotated[str, Field(max_length=255, pattern=_EMAIL)]
Id = Annotated[int, Field(ge=1, le=2**63 - 1)]
Money = Annotated[
    Decimal,
    BeforeValidator(_decimal),
    Field(ge=0, decimal_places=2),
    WithJsonSchema(
        {
            "anyOf": [{"type": "string", "pattern": f"^{_MONEY.pattern}$"}, {"type": "integer", "minimum": 0}],
            "examples": ["12.50"],
        }
    ),
]
"""An exact amount with at most two decimals; commands add the upper bound of their column."""


def explain(error: ValidationError | RecursionError) -> str:
    """Say what is wrong with a command, field by field, without repeating its content."""
    if isinstance(error, RecursionError):
        return "is nested too deeply"
    details = error.errors(include_input=False, include_url=False)
    told = [_tell(detail) for detail in details[:_MOST_ERRORS_TOLD]]
    more = len(details) - len(told)
    return "; ".join(told) + (f"; and {more} more" if more else "")


def is_newer(explanation: str) -> bool:
    """Return if unknown fields are all that is wrong, according to *explanation*: a newer version may know them."""
    parts = [part for part in explanation.split("; ") if not part.startswith("and ")]
    return all(part.endswith(_UNKNOWN_FIELD) for part in parts)


def _tell(detail: ErrorDetails) -> str:
    """Name the field, of which an unknown one's name is the sender's and is escaped and cut, and its fault."""
    name = ascii(".".join(map(str, detail["loc"])))[1:-1][:60]
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "string_pattern_mismatch":
        message = _WORDS[detail.get("ctx", {})["pattern"]]
    return f"{name}: {message}" if name else message
