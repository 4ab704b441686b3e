"""Creates PostgreSQL's roles for workers and for readers; `roles.sql` says what each may do."""

import hashlib
import hmac
import secrets
from base64 import b64encode
from collections.abc import Iterable, Mapping
from importlib.resources import files
from typing import LiteralString, cast

from tidepool.pool.config import PoolConfig
from tidepool.pool.faults import translated

ROLES = ("tidepool_work", "tidepool_read")
_SQL = cast("LiteralString", (files("tidepool.storage") / "roles.sql").read_text("utf-8"))
_ROUNDS = 4096
"""PostgreSQL's default number of iterations."""


async def grant_roles(config: PoolConfig, passwords: Mapping[str, str], grants: Iterable[LiteralString]) -> None:
    """Create the missing PostgreSQL roles of `ROLES`, for workers and for readers, and grant each what it needs.

    *config* must log in as the owner of the tables. *passwords*, by role, are set; a role that is not among them keeps
    its password. *grants* lists what `tidepool_work` may do in the application's tables, each in the form `SELECT,
    INSERT ON orders`. A second call changes nothing. Raises `Refused` if the owner may not create a role, and
    `Unavailable`.
    """
    connection = await config.connect("migrate")
    try:
        async with translated(), connection.transaction():
            await connection.execute(_SQL)
            for grant in grants:
                await connection.execute(f"GRANT {grant} TO tidepool_work")
            for role, password in passwords.items():
                await connection.execute(_set_password(role, _verifier(password, secrets.token_bytes(16))))
    finally:
        await connection.close()


def _set_password(role: str, scram: str) -> LiteralString:
    """Return the SQL statement that sets a role's password, given in the form that `_verifier` returns.

    Such a statement cannot have parameters; neither *role* nor *scram*, which is base64, needs quoting.
    """
    return cast("LiteralString", f"ALTER ROLE {role} PASSWORD '{scram}'")


def _verifier(password: str, salt: bytes) -> str:
    """Return *password* in the form in which PostgreSQL stores it: a verifier for SCRAM-SHA-256 (RFC 5803).

    The password itself is not sent, so it never appears in the server's log.

    *password* is printable ASCII, which the preparation of RFC 4013 leaves as it is.
    """
    salted = hashlib.pbkdf2_hmac("sha256", password.encode("ascii"), salt, _ROUNDS)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    texts = (b64encode(part).decode() for part in (salt, stored, server))
    return "SCRAM-SHA-256${}:{}${}:{}".format(_ROUNDS, *texts)
