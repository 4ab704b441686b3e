"""The job type `update_user`: changes the email, the full name or the active state of a user."""

from collections.abc import Sequence
from typing import Self

from pydantic import model_validator

from tidepool import Applied, Command, Job, LeftOut, Transaction, Unresolved, Verdict
from worker.jobs.fields import Email, Id, Name, Username
from worker.reasons import ShopReason
from worker.service import app
from worker.tables.users import CONSTRAINTS, UserRepository


class UpdateUser(Command):
    """The fields of an `update_user` job: a user, and new values for one or more columns.

    The user is named by either `user_id` or `username`. Fields that are left out keep their values.
    """

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


@app.batch(
    identity=True,
    constraints=CONSTRAINTS,
    grants=("SELECT, UPDATE (email, full_name, is_active, updated_at) ON public.users",),
)
async def update_user(transaction: Transaction, jobs: Sequence[Job[UpdateUser]]) -> list[Verdict]:
    """Change the given fields of the jobs' users. A job whose user does not exist yet is retried later.

    A job is rejected if its new email is taken, or if the user is still missing when its attempts are used up. Returns
    a verdict for each job, in order.
    """
    updated = await UserRepository(transaction).update([job.command for job in jobs])
    return [Unresolved(user) if isinstance(user, ShopReason) else Applied({"user_id": user}) for user in updated]
