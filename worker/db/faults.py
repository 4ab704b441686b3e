"""What database errors mean to the rest of the service: classified here, once.

Callers of `worker.db` see six classes, and decide by them alone:

- `Unavailable`: the server is away, starting, full, or read-only. Nobody's job is at fault: wait.
- `Refused`: it does not let us in, or is not who it says it is. At the start waiting cannot help; later somebody has
  changed a password or a certificate, and nobody's job is at fault. `SchemaFault` is one: a grant, table, column or
  function is missing; for a handler's statement that is its job type's failure (`worker.ledger`).
- `Conflict`: two transactions got in each other's way. Run the same transaction again, at once.
- `DataFault`: one job's data broke a constraint or does not fit a type. Repeating cannot help.
- `StatementTimeout`: the server cancelled a statement. Whoever asked for so much has to ask for less.
- anything else is a bug, and passes unchanged.

No text of these, and no traceback, has what a job holds: PostgreSQL's DETAIL, which repeats whole rows, is dropped, and
so is the driver's error behind a `DataFault`, whose message repeats the value.
"""

import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import asyncpg

from worker.outcomes import Reason

_UNAVAILABLE_CLASSES = ("08", "53", "57P", "58")
_REFUSED_CLASSES = ("28", "3D")
_SCHEMA_CLASSES = ("42501", "42P01", "42703", "42704", "42883", "3F000")
_READ_ONLY = "25006"
_CANCELLED = "57014"
_SERVER_ENDED_TRANSACTION = ("25P03", "25P04")
_CONFLICTS = ("40001", "40P01", "55P03", *_SERVER_ENDED_TRANSACTION)
_DATA_CLASSES = ("22", "23")
_REFUSES_TLS = "rejected SSL upgrade"
"""What asyncpg says of a server without TLS, where the URL asks for it."""

_REASONS = {
    "users_username_key": Reason.USERNAME_TAKEN,
    "users_email_key": Reason.EMAIL_TAKEN,
    "products_sku_key": Reason.SKU_TAKEN,
    "orders_user_id_fkey": Reason.UNKNOWN_USER,
    "orders_product_id_fkey": Reason.UNKNOWN_PRODUCT,
}


class DatabaseFault(Exception):
    """The base of the faults; the driver's error is its cause."""


class Refused(DatabaseFault):
    """Password, role, database, grants or certificate are wrong."""


class SchemaFault(Refused):
    """The statement needs a grant, table, column, function or schema that is missing."""


class Unavailable(DatabaseFault):
    """PostgreSQL cannot serve now."""


class PoolTimeout(Unavailable):
    """No connection became free in time; the text says how long the wait was and how full the pool."""


class PoolClosed(DatabaseFault):
    """The pool has been closed: this process is shutting down."""


class Conflict(DatabaseFault):
    """The transaction got in another's way and was rolled back."""


class StatementTimeout(DatabaseFault):
    """The statement took longer than COMMAND_TIMEOUT, or an operator cancelled it."""


class DataFault(DatabaseFault):
    """A job's data cannot be stored.

    *reason* is what the job is rejected for. The text names the constraint or the kind of error, never the data.
    """

    def __init__(self, reason: Reason, text: str) -> None:
        super().__init__(text)
        self.reason = reason


@asynccontextmanager
async def translated() -> AsyncGenerator[None]:
    """Raise what the block raises in the words of this module."""
    try:
        yield
    except Exception as error:
        raise_fault(error)
        raise


def raise_fault(error: Exception) -> None:
    """Raise what *error* means in the words of this module; where it means nothing there, return."""
    if isinstance(error, asyncpg.PostgresError):
        setattr(error, "detail", None)  # noqa: B010  (asyncpg sets it the same way)
    fault = classify(error)
    if fault is not None:
        raise fault from None if isinstance(fault, DataFault) else error


def classify(error: Exception) -> DatabaseFault | None:
    """Return what *error* means, or None where it is none of the driver's or a bug."""
    if isinstance(error, asyncpg.PostgresError):
        return _classify_state(error)
    if isinstance(error, (asyncpg.DataError, UnicodeEncodeError)):
        return DataFault(Reason.INVALID, "a value does not fit its column's type")
    if isinstance(error, (OSError, TimeoutError, asyncpg.InterfaceError, asyncpg.InternalClientError)):
        return _classify_connection(error)
    return None


def _classify_connection(error: Exception) -> DatabaseFault | None:
    if isinstance(error, ssl.SSLCertVerificationError):
        return Refused(f"its certificate is not trusted: {error.verify_message}")
    if isinstance(error, asyncpg.ClientConfigurationError) or _REFUSES_TLS in str(error):
        return Refused(str(error))
    if isinstance(error, asyncpg.InterfaceError) and "closed" not in str(error):
        return None  # we misuse the driver: repeating that would go on for ever
    return Unavailable(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)


def _classify_state(error: asyncpg.PostgresError) -> DatabaseFault | None:  # noqa: PLR0911  (one for each fault)
    state: str = getattr(error, "sqlstate", None) or ""
    if state.startswith(_UNAVAILABLE_CLASSES) or state == _READ_ONLY:
        return Unavailable(f"{state} {type(error).__name__}")
    if state.startswith(_REFUSED_CLASSES):
        return Refused(str(error))
    if state.startswith(_SCHEMA_CLASSES):
        return SchemaFault(str(error))
    if state == _CANCELLED:
        return StatementTimeout(str(error))
    if state in _CONFLICTS:
        return Conflict(f"{state} {type(error).__name__}")
    if state.startswith(_DATA_CLASSES):
        constraint: str = getattr(error, "constraint_name", None) or ""
        text = f"breaks {constraint}" if constraint else f"does not fit the database ({state} {type(error).__name__})"
        return DataFault(_REASONS.get(constraint, Reason.INVALID), text)
    return None
