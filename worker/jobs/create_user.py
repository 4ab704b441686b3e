"""The job type `create_user`: inserts a user."""

from collections.abc import Sequence

from tidepool import Applied, Command, Job, Rejected, Transaction, Verdict
from worker.jobs.fields import Email, Name, Username
from worker.reasons import ShopReason
from worker.service import app
from worker.tables.users import CONSTRAINTS, UserRepository


class CreateUser(Command):
    """The fields of a `create_user` job. Username and email must be unique.

    Both are compared exactly: case and accents make a difference.
    """

    username: Username
    email: Email
    full_name: Name
    is_active: bool = True


@app.batch(
    identity=True,
    constraints=CONSTRAINTS,
    grants=("SELECT, INSERT ON public.users", "USAGE ON SEQUENCE public.users_id_seq"),
)
async def create_user(transaction: Transaction, jobs: Sequence[Job[CreateUser]]) -> list[Verdict]:
    """Insert a user for each job. A job whose username or email is taken is rejected.

    Returns a verdict for each job, in order; an applied job's result is the new `user_id`.
    """
    created = await UserRepository(transaction).create([job.command for job in jobs])
    return [Rejected(user) if isinstance(user, ShopReason) else Applied({"user_id": user}) for user in created]
