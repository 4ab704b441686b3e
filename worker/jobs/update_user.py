"""The job type `update_user`."""

from collections.abc import Sequence
from typing import Self

from pydantic import model_validator

from tidepool import Applied, Command, Job, JobType, LeftOut, Transaction, Unresolved, Verdict
from worker.jobs.fields import Email, Id, Name, Username
from worker.reasons import ShopReason
from worker.tables.users import CONSTRAINTS, UserRepository


class UpdateUser(Command):
    """New values for the fields that are given; the others stay as they are."""

    user_id: LeftOut[Id] = None
    username: LeftOut[Username] = None
    email: LeftOut[Email] = None
    full_name: LeftOut[Name] = None
    is_active: LeftOut[bool] = None

    @model_validator(mode="after")
    def _names_a_user_and_a_change(self) -> Self:
        self.require_exactly_one("user_id", "username")
        if not self.model_fields_set & {"email", "full_name", "is_active"}:
            raise ValueError("give one or more of email, full_name and is_active")
        return self


async def update_user(transaction: Transaction, jobs: Sequence[Job[UpdateUser]]) -> list[Verdict]:
    """Apply the changes. A job whose user does not exist yet is tried again later."""
    updated = await UserRepository(transaction).update([job.command for job in jobs])
    return [Unresolved(user) if isinstance(user, ShopReason) else Applied({"user_id": user}) for user in updated]


JOB = JobType(
    "update_user",
    UpdateUser,
    update_user,
    constraints=CONSTRAINTS,
    grants=("SELECT, UPDATE (email, full_name, is_active, updated_at) ON users",),
)
