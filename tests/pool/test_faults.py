"""What database errors mean: one table, and nothing beside it."""

import ssl
import sys
from typing import Any

import asyncpg
import pytest
import structlog

from tidepool.pool.faults import (
    Conflict,
    DatabaseFault,
    DataFault,
    PoolTimeout,
    Refused,
    StatementTimeout,
    Unavailable,
    translated,
)


def server_error(kind: type[asyncpg.PostgresError], constraint: str | None = None) -> asyncpg.PostgresError:
    """Return an error as the server sends it; its text holds what nobody may repeat."""
    error = kind("hunter2")
    error.constraint_name = constraint
    return error


def untrusted() -> ssl.SSLCertVerificationError:
    """Return what the handshake raises for a certificate of the wrong name or CA."""
    error = ssl.SSLCertVerificationError("certificate verify failed")
    error.verify_message = "Hostname mismatch"
    return error


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        (asyncpg.ConnectionDoesNotExistError, Unavailable),
        (asyncpg.ConnectionFailureError, Unavailable),
        (asyncpg.TooManyConnectionsError, Unavailable),
        (asyncpg.DiskFullError, Unavailable),
        (asyncpg.OutOfMemoryError, Unavailable),
        (asyncpg.AdminShutdownError, Unavailable),
        (asyncpg.CrashShutdownError, Unavailable),
        (asyncpg.CannotConnectNowError, Unavailable),
        (asyncpg.PostgresIOError, Unavailable),
        (asyncpg.ReadOnlySQLTransactionError, Unavailable),
        (asyncpg.InvalidPasswordError, Refused),
        (asyncpg.InvalidAuthorizationSpecificationError, Refused),
        (asyncpg.InvalidCatalogNameError, Refused),
        (asyncpg.InsufficientPrivilegeError, Refused),
        (asyncpg.SerializationError, Conflict),
        (asyncpg.DeadlockDetectedError, Conflict),
        (asyncpg.LockNotAvailableError, Conflict),
        (asyncpg.IdleInTransactionSessionTimeoutError, Conflict),
        (asyncpg.UniqueViolationError, DataFault),
        (asyncpg.CheckViolationError, DataFault),
        (asyncpg.NotNullViolationError, DataFault),
        (asyncpg.ForeignKeyViolationError, DataFault),
        (asyncpg.NumericValueOutOfRangeError, DataFault),
        (asyncpg.StringDataRightTruncationError, DataFault),
        (asyncpg.CharacterNotInRepertoireError, DataFault),
        (asyncpg.UntranslatableCharacterError, DataFault),
        (asyncpg.InvalidTextRepresentationError, DataFault),
        (asyncpg.QueryCanceledError, StatementTimeout),
        (asyncpg.UndefinedTableError, Refused),
        (asyncpg.UndefinedColumnError, Refused),
        (asyncpg.UndefinedFunctionError, Refused),
        (asyncpg.UndefinedObjectError, Refused),
        (asyncpg.InvalidSchemaNameError, Refused),
        (asyncpg.PostgresSyntaxError, type(None)),
        (asyncpg.InternalServerError, type(None)),
    ],
    ids=lambda kind: kind.__name__,
)
def test_the_servers_errors(kind: type[asyncpg.PostgresError], fault: type) -> None:
    """By SQLSTATE; a bug passes unchanged."""
    assert fault is type(DatabaseFault.of(server_error(kind)))


@pytest.mark.parametrize(
    ("kind", "severity", "is_of_one"),
    [
        (asyncpg.InsufficientPrivilegeError, "ERROR", True),
        (asyncpg.UndefinedTableError, "ERROR", True),
        (asyncpg.UndefinedColumnError, "ERROR", True),
        (asyncpg.UndefinedFunctionError, "ERROR", True),
        (asyncpg.UndefinedObjectError, "ERROR", True),
        (asyncpg.InvalidSchemaNameError, "ERROR", True),
        (asyncpg.ConnectionFailureError, "ERROR", True),
        (asyncpg.ConnectionFailureError, "FATAL", False),
        (asyncpg.InvalidPasswordError, "FATAL", False),
        (asyncpg.DiskFullError, "ERROR", False),
        (asyncpg.UniqueViolationError, "ERROR", False),
    ],
)
def test_some_faults_concern_one_statement(
    kind: type[asyncpg.PostgresError], severity: str, *, is_of_one: bool
) -> None:
    """What it needs is missing, and the server goes on; unless it ends the connection with its error."""
    error: Any = server_error(kind)
    error.severity_en = severity
    fault = DatabaseFault.of(error)
    assert fault
    assert is_of_one == fault.is_of_one_statement


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (ConnectionRefusedError(), Unavailable),
        (ConnectionResetError(), Unavailable),
        (FileNotFoundError("no socket"), Unavailable),
        (ssl.SSLEOFError("cut in the handshake"), Unavailable),
        (untrusted(), Refused),
        (ConnectionError('PostgreSQL server at "h:5432" rejected SSL upgrade'), Refused),
        (asyncpg.ClientConfigurationError("sslmode must be one of …"), Refused),
        (TimeoutError(), Unavailable),
        (asyncpg.InterfaceError("connection is closed"), Unavailable),
        (asyncpg.InterfaceError("the server expects 1 argument for this query, 0 were passed"), type(None)),
        (asyncpg.OutdatedSchemaCacheError("types changed"), Unavailable),
        (asyncpg.DataError("invalid input for query argument $1"), DataFault),
        (UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"), DataFault),
        (ValueError("a bug"), type(None)),
        (KeyError("a bug"), type(None)),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else type(value).__name__,
)
def test_errors_on_our_side(error: Exception, fault: type) -> None:
    """A cut connection is nobody's fault; a value that cannot be encoded is its job's."""
    assert fault is type(DatabaseFault.of(error))


@pytest.mark.parametrize("constraint", ["users_username_key", None])
def test_the_fault_of_data_names_the_constraint(constraint: str | None) -> None:
    """In its text too, but never the data."""
    fault = DatabaseFault.of(server_error(asyncpg.UniqueViolationError, constraint))
    assert isinstance(fault, DataFault)
    assert (constraint or "") == fault.constraint
    assert (constraint or "23505") in str(fault)
    assert "hunter2" not in str(fault)


def test_a_pool_timeout_counts_as_unavailable() -> None:
    """The ledger waits and tries again for both."""
    assert issubclass(PoolTimeout, Unavailable)


async def test_a_translated_block_raises_our_errors_with_the_drivers_as_cause() -> None:
    """So that the traceback shows both."""
    error = server_error(asyncpg.DeadlockDetectedError)
    with pytest.raises(Conflict) as raised:
        async with translated():
            raise error
    assert error is raised.value.__cause__


@pytest.mark.parametrize("kind", [asyncpg.UniqueViolationError, asyncpg.WithCheckOptionViolationError])
async def test_a_traceback_has_no_row_in_it(kind: type[asyncpg.PostgresError]) -> None:
    """PostgreSQL's DETAIL repeats the row, and a data error's message the value; logs show neither."""
    error: Any = kind("a row was refused")
    error.detail = "Failing row contains (7, ada, ada@example.org)."
    try:
        async with translated():
            raise error
    except (DataFault, asyncpg.PostgresError):
        shown = structlog.processors.format_exc_info(None, "error", {"exc_info": sys.exc_info()})
    assert "Traceback" in shown["exception"]
    assert "ada@example.org" not in str(shown)


@pytest.mark.parametrize("error", [ValueError("a bug"), Conflict("ours"), DataFault("ours")])
async def test_what_is_no_drivers_error_passes_unchanged(error: Exception) -> None:
    """Bugs, and what was translated already."""
    with pytest.raises(type(error)) as raised:
        async with translated():
            raise error
    assert error is raised.value


def test_every_fault_has_one_base() -> None:
    """Callers that only log need to name one class."""
    faults: list[Any] = [Unavailable, PoolTimeout, Refused, Conflict, DataFault]
    assert all(issubclass(fault, DatabaseFault) for fault in faults)
