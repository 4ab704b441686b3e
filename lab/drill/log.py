"""The log of a drill: every job is written to it, with the outcome that it must have, before it is enqueued.

Each line is a JSON object for one job, in the order in which the producer enqueues them. It has the keys `job`, `id`
(unique), `args`, `outcome`, `reason` and `total`. The *outcome* `one_of` means that exactly one of all jobs with this
username must be applied; the others must be rejected because the username is taken.
"""

import json
import os
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import TypeVar

from tidepool.queue.wire import MAX_PAYLOAD_BYTES

_Made = TypeVar("_Made")
_AGE = 3000
"""Min age, in jobs, of the user and the product that an order refers to, so that they mostly exist when it runs."""
_REMEMBERED = 20_000
_BIG_BYTES = MAX_PAYLOAD_BYTES - 10_000
_WEIGHTS = {"create_user": 20, "twin": 1, "create_product": 9, "place_order": 69, "stranger": 1}


@dataclass(frozen=True, slots=True)
class LoggedJob:
    """A job of a drill, and the outcome that it must have."""

    id: str
    job: str
    """The name of the function."""
    args: dict[str, object]
    outcome: str = "applied"
    reason: str | None = None
    """Why it must be rejected."""
    total: str | None = None
    """The total price of an order that must be placed."""

    @property
    def command(self) -> str:
        """The job as a line of a commands file."""
        return json.dumps({"job": self.job, "id": self.id, "args": self.args}) + "\n"

    @property
    def expected(self) -> tuple[object, ...]:
        """The job as a row of the table `expected`."""
        total = None if self.total is None else Decimal(self.total)
        username, sku = self.args.get("username"), self.args.get("sku")
        return (self.id, self.job, self.outcome, self.reason, total, username, sku)


class Log:
    """Generates random jobs from *seed* and appends them to the file *path*."""

    def __init__(self, path: Path, seed: int) -> None:
        self.path = path
        self.count = 0
        self._file = path.open("w", encoding="utf-8")
        self._chance = random.Random(seed)
        self._users: list[str] = []
        self._products: list[tuple[str, Decimal, bool]] = []
        self._seed = seed
        self.big = 0
        """How many of the next jobs must be products with a long description, of nearly the max size of a job."""

    def write(self, count: int) -> list[str]:
        """Generate *count* jobs and append them to the log; return them as lines of a commands file.

        The jobs are on the disk (fsync) when this returns.
        """
        jobs = [self._job() for _ in range(count)]
        self._file.writelines(json.dumps(asdict(job)) + "\n" for job in jobs)
        self._file.flush()
        os.fsync(self._file.fileno())
        return [job.command for job in jobs]

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def jobs(self) -> Iterator[LoggedJob]:
        """Yield all jobs of the log."""
        with self.path.open(encoding="utf-8") as file:
            for line in file:
                yield LoggedJob(**json.loads(line))

    def commands(self) -> Iterator[str]:
        """Yield all jobs of the log as lines of a commands file."""
        return (job.command for job in self.jobs())

    def _job(self) -> LoggedJob:
        self.count += 1
        kind = self._chance.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]
        if self.big:
            self.big -= 1
            kind = "big_product"
        elif kind in ("place_order", "stranger", "twin") and self.count <= _AGE:
            kind = "create_user" if self._chance.random() < 2 / 3 else "create_product"
        make: Callable[[str], LoggedJob] = getattr(self, f"_{kind}")
        return make(f"drill-{self._seed}-{self.count}")

    def _create_user(self, job_id: str) -> LoggedJob:
        self._users.append(job_id)
        return LoggedJob(job_id, "create_user", _user(job_id, job_id), "one_of")

    def _twin(self, job_id: str) -> LoggedJob:
        return LoggedJob(job_id, "create_user", _user(self._chance.choice(self._users), job_id), "one_of")

    def _create_product(self, job_id: str) -> LoggedJob:
        price, in_stock = Decimal(self._chance.randrange(1, 100_000)) / 100, self._chance.random() < 0.9  # noqa: PLR2004
        self._products.append((job_id, price, in_stock))
        args: dict[str, object] = {
            "sku": job_id,
            "name": job_id,
            "price": str(price),
            "category": "drill",
            "in_stock": in_stock,
        }
        return LoggedJob(job_id, "create_product", args)

    def _big_product(self, job_id: str) -> LoggedJob:
        product = self._create_product(job_id)
        return replace(product, args={**product.args, "description": "big " * (_BIG_BYTES // 4)})

    def _place_order(self, job_id: str) -> LoggedJob:
        user = self._of(self._users)
        sku, price, in_stock = self._of(self._products)
        quantity = self._chance.randrange(1, 10)
        args: dict[str, object] = {"username": user, "sku": sku, "quantity": quantity}
        if in_stock:
            return LoggedJob(job_id, "place_order", args, total=str(price * quantity))
        return LoggedJob(job_id, "place_order", args, "rejected", "out_of_stock")

    def _stranger(self, job_id: str) -> LoggedJob:
        args: dict[str, object] = {"username": f"nobody-{job_id}", "sku": self._of(self._products)[0], "quantity": 1}
        return LoggedJob(job_id, "place_order", args, "rejected", "unknown_user")

    def _of(self, made: Sequence[_Made]) -> _Made:
        """Return a random item of *made*, the users or products so far, that is old enough to exist in the database."""
        end = max(1, len(made) - _AGE // 4)
        return made[self._chance.randrange(max(0, end - _REMEMBERED), end)]


def _user(username: str, job_id: str) -> dict[str, object]:
    return {"username": username, "email": f"{job_id}@drill.example", "full_name": "Drill"}
