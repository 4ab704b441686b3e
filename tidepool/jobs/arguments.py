"""Validates the arguments of jobs: the base class `Command`, types of fields, and models made of functions' signatures.

Arguments travel as JSON. Commands are strict: text is not accepted as a number, nor a number as a boolean, and unknown
fields are refused. What JSON has no type for (UUID, datetime, Decimal, enum, dataclass, bytes, …) is accepted in the
form in which pydantic writes it to JSON. Text must be storable: PostgreSQL cannot hold NUL, and UTF-8 has no lone
surrogates.
"""

import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple, TypeVar, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, ValidationError, create_model
from pydantic_core import CoreSchema, ErrorDetails, PydanticSerializationError, to_json

from tidepool.jobs.outcomes import CommonReason, Rejected

T = TypeVar("T")
C = TypeVar("C", bound="Command")

MAX_FIELDS = 100
"""Max fields of a job's arguments: validating 100,000 unknown fields would block the worker for half a second."""
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
    """Set the error text *words* for values that do not match the regular expression *pattern*; return *pattern*.

    Use the call as the `pattern` of a pydantic `Field`. Such a check takes a tenth of the time of a validator in
    Python, because pydantic matches patterns in Rust.
    """
    _pattern_words[pattern] = words
    return pattern


class _NotNull:
    """Makes an optional field refuse null, whose meaning would be unclear: a sender leaves it out instead."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema = handler(source)
        return schema["schema"] if schema["type"] == "nullable" else schema


LeftOut = Annotated[T | None, _NotNull()]
"""The type of a field that a sender may leave out but may not set to null. It is None if it is left out."""


class Command(BaseModel):
    """The base class for the arguments of a job type: a strict, immutable pydantic model without unknown fields."""

    model_config = ConfigDict(
        strict=True,
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        ser_json_bytes="base64",
        val_json_bytes="base64",
        protected_namespaces=(),
    )

    def require_exactly_one(self, first: str, second: str) -> None:
        """Raise `ValueError` unless exactly one of the fields *first* and *second* is set. For use in a validator."""
        if (getattr(self, first) is None) == (getattr(self, second) is None):
            raise ValueError(f"give exactly one of {first} and {second}")


Text = Annotated[str, Field(pattern=describe_pattern(_STORABLE, "has a NUL character"))]
"""The type of text that PostgreSQL can store. Commands add the length limits of their columns."""


class Signature(NamedTuple):
    """The parameters of a job's function after the first one, as a model, and how to call the function with them."""

    held: object
    """The annotation of the first parameter; None if it has none."""
    model: type[Command]
    positional: tuple[str, ...]
    by_name: tuple[str, ...]

    @classmethod
    def of(cls, function: Callable[..., object]) -> "Signature":
        """Return the signature of *function*, whose first parameter is what it works on: a transaction, or arq's ctx.

        Raises `TypeError` for a parameter without an annotation, or with one that pydantic does not know, and for
        `*args` and `**kwargs`: a job's arguments are validated one by one.
        """
        name = getattr(function, "__qualname__", repr(function))
        hints = get_type_hints(function, include_extras=True)
        parameters = list(inspect.signature(function).parameters.values())
        if not parameters:
            raise TypeError(f"{name} has no parameter for what it works on, such as a Transaction or arq's ctx")
        fields: dict[str, Any] = {}
        for parameter in parameters[1:]:
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                raise TypeError(f"{name}: the arguments of a job are named one by one, without *{parameter.name}")
            if parameter.name not in hints:
                raise TypeError(f"{name}: the parameter {parameter.name} has no type annotation")
            default = ... if parameter.default is parameter.empty else parameter.default
            fields[parameter.name] = (hints[parameter.name], default)
        by_name = tuple(each.name for each in parameters[1:] if each.kind == each.KEYWORD_ONLY)
        held = hints.get(parameters[0].name)
        return cls(held, _model(name, fields), tuple(n for n in fields if n not in by_name), by_name)

    def bind(self, args: Sequence[object], kwargs: Mapping[str, object]) -> dict[str, object]:
        """Return the fields that a call with *args* and *kwargs* has, as Python binds them to the parameters.

        Raises `TypeError` for too many positional arguments, or for an argument that is given twice.
        """
        if len(args) > len(self.positional):
            raise TypeError(f"takes {len(self.positional)} positional arguments, not {len(args)}")
        fields = dict(zip(self.positional, args, strict=False))
        if twice := fields.keys() & kwargs:
            raise TypeError(f"got {', '.join(sorted(twice))} twice")
        return {**fields, **kwargs}

    def arguments(self, command: Command) -> tuple[list[Any], dict[str, Any]]:
        """Return the positional and keyword arguments with which the function is called for *command*."""
        values = command.__dict__
        return [values[name] for name in self.positional], {name: values[name] for name in self.by_name}


def _model(name: str, fields: dict[str, Any]) -> type[Command]:
    """Return the model of a function's parameters. Raises `TypeError` for a type that pydantic does not know."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a parameter may be called `copy` or `json`
            return create_model(name.rpartition(".")[2], __base__=Command, **fields)
    except (NameError, TypeError, ValueError, RuntimeError) as error:  # pydantic's errors are RuntimeErrors
        raise TypeError(f"{name}: its parameters cannot be validated: {error}") from error


def validate(model: type[C], content: object) -> C | Rejected:
    """Validate *content*, the decoded arguments of a job; return them as a *model*, or a rejection if invalid."""
    if isinstance(content, dict) and len(content) > MAX_FIELDS:
        return Rejected(CommonReason.INVALID, f"has more than {MAX_FIELDS} fields")
    try:
        return model.__pydantic_validator__.validate_python(content)
    except RecursionError as error:
        return rejection_of(error)
    except ValidationError as error:
        return _parse_as_json(model, content, error)


def _parse_as_json(model: type[C], content: object, error: ValidationError) -> C | Rejected:
    """Validate arguments that are not valid as Python objects as what they are, JSON: text may then be a UUID."""
    if all(detail["type"] == _UNKNOWN_FIELD for detail in error.errors(include_input=False, include_url=False)):
        return rejection_of(error)
    try:
        return model.__pydantic_validator__.validate_json(to_json(content))
    except (ValidationError, RecursionError) as fault:
        return rejection_of(fault)
    except (PydanticSerializationError, ValueError):
        return rejection_of(error)


def encode(command: Command) -> dict[str, object]:
    """Return the fields of *command* as JSON values, without those that were not given.

    Raises `ValueError` if a worker would read something else from them: a value that JSON cannot express.
    """
    try:
        fields = command.model_dump(mode="json", exclude_unset=True)
        received = validate(type(command), fields)
    except (PydanticSerializationError, ValueError) as error:
        raise ValueError(f"{type(command).__name__}: an argument cannot be sent as JSON: {error}") from None
    if received != command:
        why = f" ({received.detail})" if isinstance(received, Rejected) else ""
        raise ValueError(f"{type(command).__name__}: an argument is another one after it was sent as JSON{why}")
    return fields


def rejection_of(error: ValidationError | RecursionError) -> Rejected:
    """Convert the error of arguments' validation to a rejection, which names wrong fields but repeats no values."""
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
