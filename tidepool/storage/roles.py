"""Creates PostgreSQL's roles for workers and for readers; `roles.sql` says what each may do."""

import hashlib
import hmac
import secrets
from base64 import b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import LiteralString, Self

from tidepool import identifiers
from tidepool.pool.config import PoolConfig
from tidepool.pool.faults import translated

_SQL = (files("tidepool.storage") / "roles.sql").read_text("utf-8")
_ROUNDS = 4096
"""PostgreSQL's default number of iterations."""


@dataclass(frozen=True, slots=True)
class Roles:
    """The names of the PostgreSQL roles beside the owner of the tables.

    Roles belong to the whole server, so applications that share one need different names for separate rights.
    """

    work: str
    """The role of workers, and of programs that enqueue jobs."""
    read: str
    """The role of programs and people that only read outcomes and pool figures."""

    @classmethod
    def of(cls, prefix: str) -> Self:
        """Return the names that begin with *prefix* (DB_ROLE_PREFIX): `{prefix}_work` and `{prefix}_read`."""
        return cls(f"{prefix}_work", f"{prefix}_read")

    async def grant(self, config: PoolConfig, passwords: Mapping[str, str], grants: Iterable[LiteralString]) -> None:
        """Create the roles that are missing, and grant each what it needs.

        *config* must log in as the owner of the tables. *passwords*, by role, are set; a role that is not among them
        keeps its password. *grants* lists what the role `work` may do in the application's tables, each in the form
        `SELECT, INSERT ON orders`. A second call changes nothing. Raises `Refused` if the owner may not create a role,
        and `Unavailable`.
        """
        names = {"schema": config.schema, "work": self.work, "read": self.read}
        connection = await config.connect("migrate")
        try:
            async with translated(), connection.transaction():
                await connection.execute(identifiers.fill_in(_SQL, **names))
                for grant in grants:
                    await connection.execute(identifiers.fill_in(f"GRANT {grant} TO {{work}}", **names))
                for role, password in passwords.items():
                    # such a statement cannot have parameters, and a verifier, which is base64, needs no quoting
                    scram = _verifier(password, secrets.token_bytes(16))
                    await connection.execute(identifiers.fill_in(f"ALTER ROLE {{role}} PASSWORD '{scram}'", role=role))
        finally:
            await connection.close()


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
