"""What database errors mean to the rest of the service: classified here, once.

Callers of `tidepool.storage` see seven classes, and decide by them alone:

- `Unavailable`: the server is away, starting, full, or read-only. Nobody's job is at fault: wait.
- `Refused`: it does not let us in, is not who it says it is, or cannot serve us as it is set up. At the start waiting
  cannot help; later somebody has changed a password, a certificate or a pooler, and nobody's job is at fault.
  `SchemaFault` is one: a grant, table, column or function is missing; for a handler's statement that is its job type's
  failure (`tidepool.ledger.ledger`).
- `Conflict`: two transactions got in each other's way. Run the same transaction again, at once.
- `DataFault`: one job's data broke a constraint or does not fit a type. Repeating cannot help.
- `NotStored`: a trigger or a policy dropped rows without an error.
- `StatementTimeout`: the server cancelled a statement. Whoever asked for so much has to ask for less.
- anything else is a bug, and passes unchanged.

While a connection is being opened, whatever is not known to pass is `Refused` (`connecting`). `Unavailable` and
`Refused` repeat the server's own words.

No text of these, and no traceback, has what a job holds: PostgreSQL's DETAIL, which repeats whole rows, is dropped, and
so is the driver's error behind a `DataFault`, whose message repeats the value.
"""

import configparser
import re
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import asyncpg

_UNAVAILABLE_CLASSES = ("08", "53", "57P", "58")
_REFUSED_CLASSES = ("28", "3D")
_SCHEMA_CLASSES = ("42501", "42P01", "42703", "42704", "42883", "3F000")
_PROTOCOL_VIOLATION = "08P01"
_POOLER_WAITS = re.compile(
    "try again|cannot connect|server_login_retry|login.timeout|query_wait_timeout|no more connections|shutting down"
    "|server down|crashed|paused|conn(ection)? closed",
    re.IGNORECASE,
)
"""What PgBouncer says, most of it with 08P01, of what passes; it refuses parameters with the same SQLSTATE."""
_STATEMENT_POOLING = "not allowed in statement pooling mode"
"""What PgBouncer says of BEGIN in that mode, and ends the connection, which looks like one that was cut."""
_POOLED = ("26000", "42P05")
_POOLED_HINT = "(a pooler in transaction mode? Use its session mode, or ?statement_cache_size=0 in DATABASE_URL)"
"""The prepared statements of a connection are those of another: no fault of the job that meets it."""
_STATEMENT_POOLING_HINT = "(set pool_mode = session or transaction in the pooler)"
_HINTS = {
    **dict.fromkeys(_POOLED, _POOLED_HINT),
    **dict.fromkeys(("42P01", "42883"), "(are the tables there? `python -m worker migrate` makes them)"),
    "42703": (
        "(is a migration missing? `python -m worker migrate` applies it; "
        "or is the table somebody else's? Then give Tidepool a database of its own)"
    ),
    **dict.fromkeys(
        ("42P06", "42P07", "42701", "42710", "42723", "42804", "42809"),
        "(the database has something else of this name: give Tidepool a database of its own)",
    ),
}
_LONGEST_WORDS = 300
"""Characters of a server's message that are repeated."""
_READ_ONLY = "25006"
_CANCELLED = "57014"
_SERVER_ENDED_TRANSACTION = ("25P03", "25P04")
_CONFLICTS = ("40001", "40P01", "55P03", *_SERVER_ENDED_TRANSACTION)
_DATA_CLASSES = ("22", "23")
_NO_DATA = ("2200H",)
"""Of those classes, what no job's data can be at fault for: a sequence that has reached its end."""
_OF_ONE_STATEMENT = ("08", "28", "3D", "53400", "57P", "58")
"""Where the connection lives on, these are about what the statement calls: a trigger's foreign server, library or
file. A server that is away or refuses us itself ends the connection with them."""
_REFUSES_TLS = "rejected SSL upgrade"
"""What asyncpg says of a server without TLS, where the URL asks for it."""


ServerError = asyncpg.PostgresError
"""What PostgreSQL says. One that none of the classes below stands for passes `translated` unchanged."""


class DatabaseFault(Exception):
    """The base of the faults; the driver's error is its cause."""


class Refused(DatabaseFault):
    """Password, role, database, grants or certificate are wrong, or the server cannot serve us as it is set up."""


class SchemaFault(Refused):
    """The statement needs a grant, table, column, function or schema that is missing."""


class Unavailable(DatabaseFault):
    """PostgreSQL is unavailable; waiting may help."""


class PoolTimeout(Unavailable):
    """No connection became free in time; the text says how long the wait was and how full the pool."""


class PoolClosed(DatabaseFault):
    """The pool has been closed: this process is shutting down."""


class Conflict(DatabaseFault):
    """The transaction got in another's way and was rolled back."""


class StatementTimeout(DatabaseFault):
    """The statement took longer than COMMAND_TIMEOUT, or an operator cancelled it."""


class NotStored(DatabaseFault):
    """A statement that should have written rows has left some out: a trigger or a policy of the table dropped them."""


class DataFault(DatabaseFault):
    """A job's data cannot be stored.

    *constraint* is the one that is broken, or empty. The text names it or the kind of error, never the data.
    """

    def __init__(self, text: str, constraint: str = "") -> None:
        super().__init__(text)
        self.constraint = constraint


def words(error: BaseException) -> str:
    """Return an error's message in one line without control characters, with a hint where there is one."""
    line = " ".join(str(error).split())[:_LONGEST_WORDS]
    line = "".join(letter if letter.isprintable() else "?" for letter in line) or type(error).__name__
    return " ".join(filter(None, (line, _HINTS.get(getattr(error, "sqlstate", None) or ""))))


@asynccontextmanager
async def connecting() -> AsyncGenerator[None]:
    """Raise `Refused` for what the block, which opens a connection, raises and is not known to pass."""
    try:
        yield
    except Exception as error:
        if _is_refusal(error):
            fault = classify(error)
            raise (fault if isinstance(fault, Refused) else Refused(words(error))) from error
        raise


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
        return DataFault("a value does not fit its column's type")
    if isinstance(error, (OSError, TimeoutError, asyncpg.InterfaceError, asyncpg.InternalClientError)):
        return _classify_connection(error)
    return None


def is_of_one_statement(error: BaseException) -> bool:
    """Return whether the driver's *error* is about what its statement needs, and the server serves others all the same.

    So it is if a grant, table, column or function is missing, or if a trigger calls what is not there.
    """
    if not isinstance(error, asyncpg.PostgresError):
        return False
    state: str = getattr(error, "sqlstate", None) or ""
    severity: str | None = getattr(error, "severity_en", None)
    lives_on = severity == "ERROR" and not _POOLER_WAITS.search(str(error))
    return state.startswith(_SCHEMA_CLASSES) or (lives_on and state.startswith(_OF_ONE_STATEMENT))


def _is_refusal(error: Exception) -> bool:
    """Return whether an error met while connecting is not known to pass."""
    if isinstance(error, asyncpg.PostgresError):
        setattr(error, "detail", None)  # noqa: B010  (as in raise_fault)
        state: str = getattr(error, "sqlstate", None) or ""
        if _STATEMENT_POOLING in str(error):
            return True
        if state == _PROTOCOL_VIOLATION:
            return not _POOLER_WAITS.search(str(error))
        return not (state == _CANCELLED or state.startswith(_UNAVAILABLE_CLASSES))
    if isinstance(fault := classify(error), (Unavailable, Refused)):
        return isinstance(fault, Refused)
    # The driver cannot use the address, or what else its environment says.
    return isinstance(error, (asyncpg.InterfaceError, ValueError, LookupError, configparser.Error))


def _with_state(error: asyncpg.PostgresError) -> str:
    return f"{getattr(error, 'sqlstate', '')} {type(error).__name__}: {words(error)}"


def _classify_connection(error: Exception) -> DatabaseFault | None:
    if isinstance(error, ssl.SSLCertVerificationError):
        return Refused(f"its certificate is not trusted: {error.verify_message}")
    if isinstance(error, asyncpg.ClientConfigurationError) or _REFUSES_TLS in str(error):
        return Refused(words(error))
    if is_local(error) or is_broken_tls(error):
        return Refused(words(error))
    if isinstance(error, asyncpg.InterfaceError) and "closed" not in str(error):
        return None  # we misuse the driver: repeating that would go on for ever
    return Unavailable(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)


def is_local(error: BaseException | None) -> bool:
    """Return whether a file or the right of this user stops us here, not the server: waiting is vain.

    Files have their names in the error, sockets have not.
    """
    if isinstance(error, (PermissionError, IsADirectoryError, NotADirectoryError)):
        return True
    return isinstance(error, OSError) and error.filename is not None


def is_broken_tls(error: BaseException | None) -> bool:
    """Return whether the two ends cannot agree on TLS, or a certificate cannot be read: no cut, and waiting is vain."""
    cut = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)
    return isinstance(error, ssl.SSLError) and not isinstance(error, cut)


def _classify_state(error: asyncpg.PostgresError) -> DatabaseFault | None:  # noqa: PLR0911  (one for each fault)
    state: str = getattr(error, "sqlstate", None) or ""
    if _STATEMENT_POOLING in str(error):
        return Refused(f"{words(error)} {_STATEMENT_POOLING_HINT}")
    if state.startswith(_UNAVAILABLE_CLASSES) or state == _READ_ONLY:
        return Unavailable(_with_state(error))
    if state.startswith((*_REFUSED_CLASSES, *_POOLED)):
        return Refused(words(error))
    if state.startswith(_SCHEMA_CLASSES):
        return SchemaFault(words(error))
    if state == _CANCELLED:
        return StatementTimeout(str(error))
    if state in _CONFLICTS:
        return Conflict(f"{state} {type(error).__name__}")
    if state.startswith(_DATA_CLASSES) and state not in _NO_DATA:
        constraint: str = getattr(error, "constraint_name", None) or ""
        text = f"breaks {constraint}" if constraint else f"does not fit the database ({state} {type(error).__name__})"
        return DataFault(text, constraint)
    return None
