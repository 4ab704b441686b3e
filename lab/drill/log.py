"""The log of a drill: every job is written to it, with the outcome that it must have, before it is enqueued.

Each line is a JSON object for one job, in the order in which the producer enqueues them. It has the keys `job`, `id`
(unique), `args`, `outcome`, `reason` and `total`. The *outcome* `one_of` means that exactly one of all jobs with this
username must be applied; the others must be rejected because the username is taken.
"""

import json
import os
import random
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

from tidepool.queue.wire import MAX_PAYLOAD_BYTES

_AGE = 3000
"""Min age, in jobs, of the user and the product that an order refers to, so that they mostly exist when it runs."""
_REMEMBERED = 20_000
_BIG_BYTES = MAX_PAYLOAD_BYTES - 10_000
_WEIGHTS = {"create_user": 20, "twin": 1, "create_product": 9, "place_order": 69, "stranger": 1}


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
        self._file.writelines(json.dumps(job) + "\n" for job in jobs)
        self._file.flush()
        os.fsync(self._file.fileno())
        return [_command(job) for job in jobs]

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def jobs(self) -> Iterator[dict[str, Any]]:
        """Yield all jobs of the log, each with the outcome that it must have."""
        with self.path.open(encoding="utf-8") as file:
            yield from map(json.loads, file)

    def commands(self) -> Iterator[str]:
        """Yield all jobs of the log as lines of a commands file."""
        return map(_command, self.jobs())

    def _job(self) -> dict[str, Any]:
        self.count += 1
        kind = self._chance.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]
        if self.big:
            self.big -= 1
            kind = "big_product"
        elif kind in ("place_order", "stranger", "twin") and self.count <= _AGE:
            kind = "create_user" if self._chance.random() < 2 / 3 else "create_product"
        job_id = f"drill-{self._seed}-{self.count}"
        return {"id": job_id, "outcome": "applied", "reason": None, "total": None, **getattr(self, f"_{kind}")(job_id)}

    def _create_user(self, job_id: str) -> dict[str, Any]:
        self._users.append(job_id)
        return {"job": "create_user", "args": _user(job_id, job_id), "outcome": "one_of"}

    def _twin(self, job_id: str) -> dict[str, Any]:
        return {"job": "create_user", "args": _user(self._chance.choice(self._users), job_id), "outcome": "one_of"}

    def _create_product(self, job_id: str) -> dict[str, Any]:
        price, in_stock = Decimal(self._chance.randrange(1, 100_000)) / 100, self._chance.random() < 0.9  # noqa: PLR2004
        self._products.append((job_id, price, in_stock))
        args = {"sku": job_id, "name": job_id, "price": str(price), "category": "drill", "in_stock": in_stock}
        return {"job": "create_product", "args": args}

    def _big_product(self, job_id: str) -> dict[str, Any]:
        product = self._create_product(job_id)
        return {**product, "args": {**product["args"], "description": "big " * (_BIG_BYTES // 4)}}

    def _place_order(self, _job_id: str) -> dict[str, Any]:
        user = self._of(self._users)
        sku, price, in_stock = self._of(self._products)
        quantity = self._chance.randrange(1, 10)
        args = {"username": user, "sku": sku, "quantity": quantity}
        if in_stock:
            return {"job": "place_order", "args": args, "total": str(price * quantity)}
        return {"job": "place_order", "args": args, "outcome": "rejected", "reason": "out_of_stock"}

    def _stranger(self, job_id: str) -> dict[str, Any]:
        args = {"username": f"nobody-{job_id}", "sku": self._of(self._products)[0], "quantity": 1}
        return {"job": "place_order", "args": args, "outcome": "rejected", "reason": "unknown_user"}

    def _of(self, made: list[Any]) -> Any:
        """Return a random item of *made*, the users or products so far, that is old enough to exist in the database."""
        end = max(1, len(made) - _AGE // 4)
        return made[self._chance.randrange(max(0, end - _REMEMBERED), end)]


def _command(job: dict[str, Any]) -> str:
    return json.dumps({name: job[name] for name in ("job", "id", "args")}) + "\n"


def _user(username: str, job_id: str) -> dict[str, Any]:
    return {"username": username, "email": f"{job_id}@drill.example", "full_name": "Drill"}
