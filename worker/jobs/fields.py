"""The types of fields, such as money and names, that the arguments of the service's jobs are made of.

An amount of money is decimal text, or a JSON number of at most 15 significant digits, so that it is exact. Names have
at least one visible character.
"""

import re
from decimal import Decimal
from typing import Annotated

from pydantic import BeforeValidator, Field, WithJsonSchema

from tidepool import describe_pattern

_UNSEEN = (
    "\\x00-\x20\x7f-\xa0\xad\u034f\u061c\u115f\u1160\u1680\u17b4\u17b5\u180b-\u180f\u2000-\u200f\u2028-\u202f"
    "\u205f-\u206f\u2800\u3000\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb\U000e0000-\U000e0fff"
)
"""Characters that show nothing, for a regular expression: blanks, control and format characters, and blank fillers."""
_VISIBLE = describe_pattern(rf"^[^\x00]*[^{_UNSEEN}][^\x00]*$", "has a NUL character, or no visible one")
_EMAIL = describe_pattern(
    r"^[^@\s\x00\x1c-\x1f]+@[^@\s\x00\x1c-\x1f]+$", "must have one @, no spaces, and something on both sides"
)
_MONEY = re.compile(r"[+-]?[0-9]{1,30}(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,2})?")
"""Matches decimal text. It allows an exponent, because `str` of a Python `Decimal` may have one (`1E+2`)."""
_EXACT_DIGITS = 15
"""Max significant digits of money in a JSON number: a float keeps every decimal of 15 digits, and `repr` returns it."""


def _decimal(value: object) -> object:
    """Return the amount that a field holds as a `Decimal`. Raises `ValueError` if it holds none.

    It does no arithmetic, which would round.
    """
    if isinstance(value, str) and _MONEY.fullmatch(value):
        value = Decimal(value)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        value = _of_number(value)
    if not isinstance(value, Decimal):
        raise ValueError('must be decimal text such as "12.50"')  # noqa: TRY004  (pydantic wants ValueError)
    return abs(value) if value.is_zero() else value  # no negative zero


def _of_number(number: float) -> Decimal | None:
    """Return the shortest decimal form of a JSON number; None if it has more than 15 significant digits.

    The limit holds for whole numbers too: a sender whose numbers are floats has rounded a longer one already.
    """
    amount = Decimal(repr(number)) if isinstance(number, float) else Decimal(number)
    digits = "".join(map(str, amount.as_tuple().digits)).rstrip("0")
    return amount if amount.is_finite() and len(digits) <= _EXACT_DIGITS else None


VisibleText = Annotated[str, Field(min_length=1, pattern=_VISIBLE)]
"""Text with at least one visible character. It is stored exactly as it is sent, right-to-left marks included."""
Name = Annotated[VisibleText, Field(max_length=255)]
Username = Annotated[VisibleText, Field(max_length=50)]
Sku = Annotated[VisibleText, Field(max_length=64)]
Email = Annotated[str, Field(max_length=255, pattern=_EMAIL)]
Id = Annotated[int, Field(ge=1, le=2**63 - 1)]
Money = Annotated[
    Decimal,
    BeforeValidator(_decimal),
    Field(ge=0, decimal_places=2),
    WithJsonSchema(
        {
            "anyOf": [{"type": "string", "pattern": f"^{_MONEY.pattern}$"}, {"type": "number", "minimum": 0}],
            "examples": ["12.50", 99.99],
        }
    ),
]
"""An exact amount of at least 0 with at most two decimals. Each command adds the upper bound of its column."""
