"""Builders that read aloud: each gives something valid, of which a test names only what it is about."""

import itertools
import time
from typing import Any

from tidepool.jobs.arguments import Command
from tidepool.jobs.job import Job
from tidepool.jobs.outcomes import Failed, Rejected
from tidepool.jobs.submission import Submission
from tidepool.ledger.outbox import OutboxJob, job_of
from tidepool.queue.wire import now_ms
from tidepool.storage.results import Finished
from worker.jobs import JOBS
from worker.jobs.create_product import CreateProduct
from worker.jobs.create_user import CreateUser
from worker.jobs.place_order import PlaceOrder
from worker.jobs.set_stock import SetStock
from worker.jobs.update_user import UpdateUser

SERVERS = {"DATABASE_URL": "postgresql://ada:hunter2@db.example.org:5433/shop", "REDIS_URL": "redis://:hunter2@r:6379"}
"""Variables that name both servers."""
_NUMBERS = itertools.count(1)
_FUNCTIONS = {job_type.command: job_type.name for job_type in JOBS}


def user_fields(username: str = "ada", **fields: Any) -> dict[str, Any]:
    """Return the content of a create_user job."""
    return {"username": username, "email": f"{username}@example.org", "full_name": "Ada Lovelace", **fields}


def product_fields(sku: str = "LAMP", **fields: Any) -> dict[str, Any]:
    """Return the content of a create_product job."""
    return {"sku": sku, "name": "Brass Lamp", "price": "12.50", "category": "Home", **fields}


def an_outbox_job(
    job_id: str = "a", *, username: str | None = None, due_ms: int | None = None, identity: bool | None = None
) -> OutboxJob:
    """Return a create_user job to enqueue in a transaction; the username is by default the id."""
    fields = user_fields(username or job_id)
    return job_of(Submission(job_id, "create_user", fields, identity, due_ms=due_ms))


def a_user(username: str = "ada", **fields: Any) -> CreateUser:
    """Return a command that creates a user; the email follows from the username."""
    return CreateUser(**user_fields(username, **fields))


def a_product(sku: str | None = "LAMP", **fields: Any) -> CreateProduct:
    """Return a command that creates a product; None: one without a sku."""
    content = {**product_fields(), "sku": sku, **fields}
    return CreateProduct(**{name: value for name, value in content.items() if value is not None})


def an_order(username: str = "ada", sku: str = "LAMP", quantity: int = 1, **fields: Any) -> PlaceOrder:
    """Return a command that orders; an id in *fields* takes the place of the name."""
    user = {} if "user_id" in fields else {"username": username}
    product = {} if "product_id" in fields else {"sku": sku}
    return PlaceOrder(**{**user, **product, "quantity": quantity, **fields})


def a_change(username: str = "ada", **fields: Any) -> UpdateUser:
    """Return a command that changes a user; a user_id in *fields* takes the place of the username."""
    return UpdateUser(**({} if "user_id" in fields else {"username": username}), **fields)


def a_stock(sku: str = "LAMP", *, in_stock: bool, **fields: Any) -> SetStock:
    """Return a command that sets a product's stock; a product_id in *fields* takes the place of the sku."""
    return SetStock(**({} if "product_id" in fields else {"sku": sku}), in_stock=in_stock, **fields)


def a_job(
    command: Command | Rejected | Failed | None = None,
    job_id: str | None = None,
    *,
    function: str | None = None,
    content: Any = None,
    attempt: int = 1,
    is_last_attempt: bool = False,
    has_looked_again: bool = True,
    reused_ms: int | None = None,
) -> Job:
    """Return a first try at *command*, enqueued a second ago, that has waited for the batches under way.

    Its id is its identity; with *reused_ms* it is not, and the job was enqueued then.
    """
    command = command or a_user()
    job_id = job_id or f"job-{next(_NUMBERS)}"
    job: Job = Job(
        job_id,
        function=function or _FUNCTIONS.get(type(command), "create_user"),  # pyright: ignore[reportArgumentType]
        content=content,
        attempt=attempt,
        is_last_attempt=is_last_attempt,
        enqueued_ms=now_ms() - 1000 if reused_ms is None else reused_ms,
        identity=reused_ms is None,
        due_ms=now_ms() - 1000,
        started_ms=now_ms(),
        started_ns=time.perf_counter_ns(),
        has_looked_again=has_looked_again,
    )
    job.set_key(is_identity=True)
    if isinstance(command, Command):
        job.command = command
        if content is None:
            job.content = command.model_dump(mode="json", exclude_unset=True)
    else:
        job.decided = command
    return job


def a_submission(username: str = "ada", job_id: str | None = None) -> Submission:
    """Return a create_user job as the producer hands it in."""
    return Submission(job_id or f"job-{next(_NUMBERS)}", "create_user", user_fields(username), identity=True)


def a_finished_job(status: str = "applied", **fields: Any) -> Finished:
    """Return what a report counts of one job."""
    given: dict[str, Any] = {"function": "create_user", "reason": None, "queue_us": 1000, **fields}
    return Finished(job_id=f"job-{next(_NUMBERS)}", status=status, **given)
