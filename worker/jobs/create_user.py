"""Create a user."""

from collections.abc import Sequence

from tidepool.jobs.job import Job, JobType
from tidepool.jobs.outcomes import Applied, Reason, Rejected, Verdict
from worker.jobs.fields import Command, Email, Name, Username
from worker.jobs.ports import Repositories


class CreateUser(Command):
    """A new user. Username and email are unique to the letter: case and accents tell users apart."""

    username: Username
    email: Email
    full_name: Name
    is_active: bool = True


async def create_user(jobs: Sequence[Job[CreateUser]], repositories: Repositories) -> list[Verdict]:
    """Insert the users; one whose username or email is taken is rejected."""
    created = await repositories.users.create([job.command for job in jobs])
    return [Rejected(user) if isinstance(user, Reason) else Applied({"user_id": user}) for user in created]


JOB = JobType("create_user", CreateUser, create_user)
