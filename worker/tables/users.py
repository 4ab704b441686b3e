"""The table `users`: its rows, and the repository that inserts, changes and reads them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from tidepool import Connection, NotStored, Row, encode_rows, load_queries
from worker.reasons import ShopReason

_SQL = load_queries("users", "worker.tables")
CONSTRAINTS = {
    "users_username_key": ShopReason.USERNAME_TAKEN,
    "users_email_key": ShopReason.EMAIL_TAKEN,
}
"""The constraints of the table, each with the reason for which a job that violates it is rejected."""


@dataclass(frozen=True, slots=True)
class User:
    """A row of the table `users`."""

    id: int
    username: str
    email: str
    full_name: str
    is_active: bool
    created_at: datetime
    updated_at: datetime


class _NewUser(Protocol):
    """The values of a new row."""

    @property
    def username(self) -> str: ...
    @property
    def email(self) -> str: ...
    @property
    def full_name(self) -> str: ...
    @property
    def is_active(self) -> bool: ...


class _UserChange(Protocol):
    """New values of one user's columns. None keeps a column's value. The user is given by either id or username."""

    @property
    def user_id(self) -> int | None: ...
    @property
    def username(self) -> str | None: ...
    @property
    def email(self) -> str | None: ...
    @property
    def full_name(self) -> str | None: ...
    @property
    def is_active(self) -> bool | None: ...


class UserRepository:
    """Inserts, changes and reads users over one connection.

    It opens no transaction: a job's writes belong to the transaction that also writes the job's outcome to the ledger.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def create(self, users: Sequence[_NewUser]) -> list[int | ShopReason]:
        """Insert users. Returns for each, in order, the new id, or USERNAME_TAKEN or EMAIL_TAKEN if another has it.

        Raises `NotStored` if a trigger dropped a row.
        """
        created = await self._connection.fetch(
            _SQL["create"], encode_rows((u.username, u.email, u.full_name, u.is_active) for u in users)
        )
        ids: list[int | None] = [row["id"] for row in created]
        refused = [user for user, user_id in zip(users, ids, strict=True) if user_id is None]
        reasons = iter(await self._reasons(refused) if refused else ())
        return [user_id or next(reasons) for user_id in ids]

    async def _reasons(self, refused: Sequence[_NewUser]) -> list[ShopReason]:
        """Return the reason why each of *refused* was not inserted.

        Raises `NotStored` if neither the username nor the email of one is taken.
        """
        taken = await self._connection.fetch(
            _SQL["taken"], [user.username for user in refused], [user.email for user in refused]
        )
        usernames, emails = {row["username"] for row in taken}, {row["email"] for row in taken}
        if any(user.username not in usernames and user.email not in emails for user in refused):
            raise NotStored("a user was not inserted, though neither username nor email is taken: by a trigger?")
        return [ShopReason.USERNAME_TAKEN if u.username in usernames else ShopReason.EMAIL_TAKEN for u in refused]

    async def update(self, changes: Sequence[_UserChange]) -> list[int | ShopReason]:
        """Set the given columns of users. Several changes of one user are applied in order.

        Returns for each change, in order, the user's id, or UNKNOWN_USER. Raises `DataFault` if a new email is another
        user's, and `NotStored` if a trigger dropped a change.
        """
        locked = await self._connection.fetch(
            _SQL["lock"],
            [change.user_id for change in changes if change.user_id is not None],
            [change.username for change in changes if change.username is not None],
        )
        ids = {row["id"]: row["id"] for row in locked} | {row["username"]: row["id"] for row in locked}
        found: list[int | None] = [ids.get(change.user_id or change.username) for change in changes]
        for wave in _one_of_each(found):
            await self._update_distinct([(found[i], changes[i]) for i in wave])
        return [user_id or ShopReason.UNKNOWN_USER for user_id in found]

    async def _update_distinct(self, changes: list[tuple[int | None, _UserChange]]) -> None:
        status = await self._connection.execute(
            _SQL["update"], encode_rows((user_id, c.email, c.full_name, c.is_active) for user_id, c in changes)
        )
        if status != f"UPDATE {len(changes)}":
            raise NotStored(f"{status} of {len(changes)} users: did a trigger leave some out?")

    async def get_by_id(self, user_id: int) -> User | None:
        """Return the user with this id, or None."""
        return _user(await self._connection.fetchrow(_SQL["get_by_id"], user_id))

    async def get_by_email(self, email: str) -> User | None:
        """Return the user with exactly this email, or None."""
        return _user(await self._connection.fetchrow(_SQL["get_by_email"], email))

    async def get_by_username(self, username: str) -> User | None:
        """Return the user with exactly this username, or None."""
        return _user(await self._connection.fetchrow(_SQL["get_by_username"], username))

    async def list_page(self, *, after_id: int = 0, offset: int = 0, limit: int = 100) -> list[User]:
        """Return up to *limit* users whose ids are greater than *after_id*, in the order of their ids.

        *offset* users are skipped first; the database still reads each of them. For the next page, *after_id* is the id
        of the last user of this page.
        """
        found = await self._connection.fetch(_SQL["list_page"], after_id, offset, limit)
        return [User(**dict(row.items())) for row in found]


def _user(row: Row | None) -> User | None:
    return None if row is None else User(**dict(row.items()))


def _one_of_each(found: Sequence[int | None]) -> list[list[int]]:
    """Split the positions of changes into groups that contain each user at most once.

    Applied one group after the other, several changes of one user take effect in their order. Positions of None are
    left out.
    """
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
