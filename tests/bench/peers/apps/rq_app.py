"""RQ, with workers that do not fork for each job."""

import sys
from typing import Any

from body import REDIS, chunks, create_user_blocking, open_blocking_pool
from redis import Redis
from rq import Queue

pools: list[Any] = []


def job(number: int) -> int:
    """Run the job."""
    if not pools:
        pools.append(open_blocking_pool())
    return create_user_blocking(pools[0], number)


if __name__ == "__main__":
    queue = Queue("bench", connection=Redis.from_url(REDIS))
    for numbers in chunks(int(sys.argv[2])):
        queue.enqueue_many([Queue.prepare_data("rq_app.job", (number,)) for number in numbers])
