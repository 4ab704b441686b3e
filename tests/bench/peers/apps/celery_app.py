"""Celery on Redis, with results."""

import sys
from typing import Any

from body import REDIS, create_user_blocking, open_blocking_pool
from celery import Celery
from celery.signals import worker_process_init

app = Celery("bench", broker=REDIS, backend=REDIS)
app.conf.update(worker_prefetch_multiplier=100, worker_send_task_events=False, task_default_queue="bench")
pools: list[Any] = []


@worker_process_init.connect
def _startup(**_: Any) -> None:
    pools.append(open_blocking_pool())


@app.task(name="job")
def job(number: int) -> int:
    """Run the job."""
    return create_user_blocking(pools[0], number)


if __name__ == "__main__":
    with app.producer_or_acquire() as producer:
        for number in range(int(sys.argv[2])):
            job.apply_async((number,), producer=producer)
