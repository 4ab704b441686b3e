"""The users table."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from tidepool.jobs.outcomes import Reason
from tidepool.pool.connection import Connection, Row
from tidepool.pool.faults import NotStored
from tidepool.storage import queries, rows
from worker.jobs.create_user import CreateUser
from worker.jobs.update_user import UpdateUser

_SQL = queries.load("users")


@dataclass(frozen=True, slots=True)
class User:
    """A row of users."""

    id: int
    username: str
    email: str
    full_name: str
    is_active: bool
    created_at: datetime
    updated_at: datetime


class UserRepository:
    """Users, over one connection. Opens no transaction: writes belong to the ledger's."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def create(self, commands: Sequence[CreateUser]) -> list[int | Reason]:
        """See `worker.jobs.ports.Users.create`."""
        created = await self._connection.fetch(
            _SQL["create"], rows.encode((c.username, c.email, c.full_name, c.is_active) for c in commands)
        )
        ids: list[int | None] = [row["id"] for row in created]
        refused = [command for command, user_id in zip(commands, ids, strict=True) if user_id is None]
        reasons = iter(await self._reasons(refused) if refused else ())
        return [user_id or next(reasons) for user_id in ids]

    async def _reasons(self, refused: Sequence[CreateUser]) -> list[Reason]:
        """Return why each was not inserted. Raises `NotStored` if neither its username nor its email is taken."""
        taken = await self._connection.fetch(
            _SQL["taken"], [command.username for command in refused], [command.email for command in refused]
        )
        usernames, emails = {row["username"] for row in taken}, {row["email"] for row in taken}
        if any(command.username not in usernames and command.email not in emails for command in refused):
            raise NotStored("a user was not inserted, though neither username nor email is taken: by a trigger?")
        return [Reason.USERNAME_TAKEN if c.username in usernames else Reason.EMAIL_TAKEN for c in refused]

    async def update(self, commands: Sequence[UpdateUser]) -> list[int | Reason]:
        """See `worker.jobs.ports.Users.update`."""
        locked = await self._connection.fetch(
            _SQL["lock"],
            [command.user_id for command in commands if command.user_id is not None],
            [command.username for command in commands if command.username is not None],
        )
        ids = {row["id"]: row["id"] for row in locked} | {row["username"]: row["id"] for row in locked}
        found: list[int | None] = [ids.get(command.user_id or command.username) for command in commands]
        for wave in _one_of_each(found):
            await self._update_distinct([(found[i], commands[i]) for i in wave])
        return [user_id or Reason.UNKNOWN_USER for user_id in found]

    async def _update_distinct(self, changes: list[tuple[int | None, UpdateUser]]) -> None:
        status = await self._connection.execute(
            _SQL["update"], rows.encode((user_id, c.email, c.full_name, c.is_active) for user_id, c in changes)
        )
        if status != f"UPDATE {len(changes)}":
            raise NotStored(f"{status} of {len(changes)} users: did a trigger leave some out?")

    async def get_by_id(self, user_id: int) -> User | None:
        """Return the user with this id, or None."""
        return _user(await self._connection.fetchrow(_SQL["get_by_id"], user_id))

    async def get_by_email(self, email: str) -> User | None:
        """Return the user with this email, to the letter, or None."""
        return _user(await self._connection.fetchrow(_SQL["get_by_email"], email))

    async def get_by_username(self, username: str) -> User | None:
        """Return the user with this username, to the letter, or None."""
        return _user(await self._connection.fetchrow(_SQL["get_by_username"], username))

    async def list_page(self, *, after_id: int = 0, offset: int = 0, limit: int = 100) -> list[User]:
        """Return up to *limit* users in the order of their ids; the last one's id begins the next page.

        *offset* users are skipped first, each of which has to be read.
        """
        found = await self._connection.fetch(_SQL["list_page"], after_id, offset, limit)
        return [User(**dict(row.items())) for row in found]


def _user(row: Row | None) -> User | None:
    return None if row is None else User(**dict(row.items()))


def _one_of_each(found: Sequence[int | None]) -> list[list[int]]:
    """Split positions into waves that name no user twice, so that one user's changes apply in their order."""
    waves: list[list[int]] = []
    seen: dict[int, int] = {}
    for position, user_id in enumerate(found):
        if user_id is None:
            continue
        wave = seen.get(user_id, 0)
        seen[user_id] = wave + 1
        if wave == len(waves):
            waves.append([])
        waves[wave].append(position)
    return waves
