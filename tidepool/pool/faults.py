"""Translates errors of the database and its driver into a few exceptions that say what to do: wait, retry or give up.

Callers of `tidepool.storage` see these classes, and decide by them alone:

- `Unavailable`: the server is away, starting, full, or read-only. No job is the cause: wait.
- `Refused`: the server rejects our login, its identity cannot be verified, or its configuration does not suit us. When
  a process starts, waiting cannot help. Later it means that somebody has changed a password, a certificate or a pooler,
  and no job is the cause. But if only a handler's statement is refused (`is_of_one_statement`), such as for want of a
  grant, that is a failure of the handler's job type (`tidepool.ledger.ledger`).
- `Conflict`: the transaction conflicted with another one. Run the same transaction again, at once.
- `DataFault`: one job's data broke a constraint or does not fit a type. Repeating cannot help.
- `NotStored`: a trigger or a policy dropped rows without an error.
- `StatementTimeout`: the server cancelled a statement. Its caller has to ask for less at a time.
- Any other error is a bug, and passes unchanged.

While a connection is being opened, every error that is not known to be temporary is `Refused` (`translated`).
`Unavailable` and `Refused` repeat the server's own message.

No message and no traceback of these exceptions contains a job's data: PostgreSQL's DETAIL, which repeats whole rows, is
dropped, and so is the driver's error behind a `DataFault`, whose message repeats the value.
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
"""Matches PgBouncer's messages about temporary problems. Most have the SQLSTATE 08P01, and so have its messages about
wrong parameters, which are not temporary: only the text shows the difference."""
_STATEMENT_POOLING = "not allowed in statement pooling mode"
"""PgBouncer's message if it gets a BEGIN in its mode `statement`. It then ends the connection, which looks like one
that was lost."""
_POOLED = ("26000", "42P05")
_POOLED_HINT = "(a pooler in transaction mode? Use its session mode, or ?statement_cache_size=0 in DATABASE_URL)"
"""The hint for the SQLSTATEs above: a pooler has switched connections, and the prepared statements of this one are
those of another. The job that gets the error is not the cause."""
_STATEMENT_POOLING_HINT = "(set pool_mode = session or transaction in the pooler)"
_HINTS = {
    **dict.fromkeys(_POOLED, _POOLED_HINT),
    **dict.fromkeys(("42P01", "42883"), "(are the tables there? `python -m worker migrate` makes them)"),
    "42703": (
        "(is a migration missing? `python -m worker migrate` applies it; "
        "or is the table somebody else's? Then give Tidepool a schema of its own with DB_SCHEMA)"
    ),
    **dict.fromkeys(
        ("42P06", "42P07", "42701", "42710", "42723", "42804", "42809"),
        "(something else has this name: give Tidepool a schema of its own with DB_SCHEMA, or a database of its own)",
    ),
}
_LONGEST_WORDS = 300
"""Max characters of a server's message that `words` repeats."""
_READ_ONLY = "25006"
_CANCELLED = "57014"
_SERVER_ENDED_TRANSACTION = ("25P03", "25P04")
_CONFLICTS = ("40001", "40P01", "55P03", *_SERVER_ENDED_TRANSACTION)
_DATA_CLASSES = ("22", "23")
_NO_DATA = ("2200H",)
"""SQLSTATEs of those classes that no job's data can cause: a sequence has reached its end."""
_OF_ONE_STATEMENT = ("08", "28", "3D", "53400", "57P", "58")
"""SQLSTATEs that concern a single statement if the connection stays open: something that the statement calls is
missing, such as a trigger's foreign server, library or file. If the server itself is away or refuses us, it closes the
connection with the same SQLSTATEs."""
_REFUSES_TLS = "rejected SSL upgrade"
"""asyncpg's message if the URL asks for TLS and the server has none."""


ServerError = asyncpg.PostgresError
"""Any error that PostgreSQL reports. One that matches none of the classes below passes `translated` unchanged."""


class DatabaseFault(Exception):
    """The base class of the errors that callers of the database get. `__cause__` is the driver's error.

    A `DataFault` has no `__cause__`, because the driver's message repeats the data of a job.
    """

    is_of_one_statement = False
    """Whether it concerns only its own statement, while the server still serves others.

    That is the case if a grant, table, column or function is missing, or if a trigger calls something that is not
    there, such as a foreign server.
    """

    @staticmethod
    def of(error: Exception) -> "DatabaseFault | None":
        """Convert an error of the database driver to this module's exception for it. Returns and does not raise it.

        Returns None if *error* is no database error, or if it shows a bug in the calling code: then raise *error*
        unchanged.
        """
        if isinstance(error, asyncpg.PostgresError):
            fault = _classify_state(error)
            if fault is not None and _is_of_one_statement(error):
                fault.is_of_one_statement = True
            return fault
        if isinstance(error, (asyncpg.DataError, UnicodeEncodeError)):
            return DataFault("a value does not fit its column's type")
        if isinstance(error, (OSError, TimeoutError, asyncpg.InterfaceError, asyncpg.InternalClientError)):
            return _classify_connection(error)
        return None

    @staticmethod
    def raise_for(error: Exception) -> None:
        """Raise this module's exception for the driver's *error*; return if there is no such exception.

        Also removes PostgreSQL's DETAIL from *error*, because it repeats whole rows.
        """
        if isinstance(error, asyncpg.PostgresError):
            setattr(error, "detail", None)  # noqa: B010  (asyncpg sets it the same way)
        fault = DatabaseFault.of(error)
        if fault is not None:
            raise fault from None if isinstance(fault, DataFault) else error


def from_other_driver(error: Exception) -> Exception:
    """Return an error of PostgreSQL that another driver reports, such as psycopg, as asyncpg's for its SQLSTATE.

    Returns *error* itself if it is asyncpg's, or has no SQLSTATE.
    """
    state: str | None = getattr(error, "sqlstate", None)
    if state is None or isinstance(error, asyncpg.PostgresError):
        return error
    details: object = getattr(error, "diag", None)
    fields = {"C": state, "M": str(getattr(details, "message_primary", None) or error)}
    named = {"V": "severity_nonlocalized", "n": "constraint_name"}
    fields |= {key: value for key, name in named.items() if (value := getattr(details, name, None))}
    return asyncpg.PostgresError.new(fields)


class Refused(DatabaseFault):
    """PostgreSQL rejects our login, database, grants or certificate, or its schema or settings do not suit us."""


class Unavailable(DatabaseFault):
    """PostgreSQL is away, starting, full or read-only. Waiting may help."""


class PoolTimeout(Unavailable):
    """The pool had no free connection in time, or too many callers waited. The message says how full the pool is."""


class PoolClosed(DatabaseFault):
    """The pool has been closed: this process is shutting down."""


class Conflict(DatabaseFault):
    """The transaction conflicted with another one and was rolled back. Running it again may succeed."""


class StatementTimeout(DatabaseFault):
    """The statement took longer than COMMAND_TIMEOUT, or an operator cancelled it."""


class NotStored(DatabaseFault):
    """A statement stored fewer rows than it should have: a trigger or a policy of the table dropped some.

    The ledger also raises it if one of its own rows breaks a constraint, for which no job may be rejected.
    """


class DataFault(DatabaseFault):
    """A job's data cannot be stored: it breaks a constraint, or does not fit a column's type.

    *constraint* is the name of the broken constraint, or empty. The message names it or the kind of error, never the
    data.
    """

    def __init__(self, text: str, constraint: str = "") -> None:
        super().__init__(text)
        self.constraint = constraint


def words(error: BaseException) -> str:
    """Return an error's message as one printable line, with a hint about what to do if its SQLSTATE has one.

    The message is cut after 300 characters. If it is empty, the name of the error's class takes its place.
    """
    line = " ".join(str(error).split())[:_LONGEST_WORDS]
    line = "".join(letter if letter.isprintable() else "?" for letter in line) or type(error).__name__
    return " ".join(filter(None, (line, _HINTS.get(getattr(error, "sqlstate", None) or ""))))


@asynccontextmanager
async def translated(*, connecting: bool = False) -> AsyncGenerator[None]:
    """Convert the driver's errors that the `async with` block raises to this module's exceptions; pass other errors on.

    If the block opens a connection (*connecting*), every error of the block becomes `Refused` unless it is known to be
    temporary, as that of a server which is starting.
    """
    try:
        yield
    except Exception as error:
        if connecting and _is_refusal(error):
            fault = DatabaseFault.of(error)
            raise (fault if isinstance(fault, Refused) else Refused(words(error))) from error
        DatabaseFault.raise_for(error)
        raise


def is_permanent(error: BaseException | None) -> bool:
    """Return whether *error*, raised while connecting to any server, cannot be repaired by waiting.

    That is the case if its cause is a file or a permission on this machine, if the two ends cannot agree on TLS, or if
    a certificate cannot be read; but not if the connection was refused or cut.
    """
    if isinstance(error, ssl.SSLError):
        return not isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError))
    if isinstance(error, (PermissionError, IsADirectoryError, NotADirectoryError)):
        return True
    return isinstance(error, OSError) and error.filename is not None  # one about a socket has no file name


def _is_of_one_statement(error: asyncpg.PostgresError) -> bool:
    state: str = getattr(error, "sqlstate", None) or ""
    severity: str | None = getattr(error, "severity_en", None)
    lives_on = severity == "ERROR" and not _POOLER_WAITS.search(str(error))
    return state.startswith(_SCHEMA_CLASSES) or (lives_on and state.startswith(_OF_ONE_STATEMENT))


def _is_refusal(error: Exception) -> bool:
    """Return whether an error that was raised while connecting is a refusal: it is not known to be temporary."""
    if isinstance(error, asyncpg.PostgresError):
        setattr(error, "detail", None)  # noqa: B010  (as in raise_for)
        state: str = getattr(error, "sqlstate", None) or ""
        if _STATEMENT_POOLING in str(error):
            return True
        if state == _PROTOCOL_VIOLATION:
            return not _POOLER_WAITS.search(str(error))
        return not (state == _CANCELLED or state.startswith(_UNAVAILABLE_CLASSES))
    if isinstance(fault := DatabaseFault.of(error), (Unavailable, Refused)):
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
    if is_permanent(error):
        return Refused(words(error))
    if isinstance(error, asyncpg.InterfaceError) and "closed" not in str(error):
        return None  # we misuse the driver: repeating that would go on for ever
    return Unavailable(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)


def _classify_state(error: asyncpg.PostgresError) -> DatabaseFault | None:  # noqa: PLR0911  (one for each fault)
    state: str = getattr(error, "sqlstate", None) or ""
    if _STATEMENT_POOLING in str(error):
        return Refused(f"{words(error)} {_STATEMENT_POOLING_HINT}")
    if state.startswith(_UNAVAILABLE_CLASSES) or state == _READ_ONLY:
        return Unavailable(_with_state(error))
    if state.startswith((*_REFUSED_CLASSES, *_POOLED, *_SCHEMA_CLASSES)):
        return Refused(words(error))
    if state == _CANCELLED:
        return StatementTimeout(str(error))
    if state in _CONFLICTS:
        return Conflict(f"{state} {type(error).__name__}")
    if state.startswith(_DATA_CLASSES) and state not in _NO_DATA:
        constraint: str = getattr(error, "constraint_name", None) or ""
        text = f"breaks {constraint}" if constraint else f"does not fit the database ({state} {type(error).__name__})"
        return DataFault(text, constraint)
    return None
