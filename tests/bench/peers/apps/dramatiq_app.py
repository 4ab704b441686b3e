"""dramatiq on Redis, with results."""

import sys

import dramatiq
from body import REDIS, create_user_blocking, open_blocking_pool
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

broker = RedisBroker(url=REDIS)
broker.add_middleware(Results(backend=RedisBackend(url=REDIS)))
dramatiq.set_broker(broker)
pool = open_blocking_pool() if len(sys.argv) < 2 or sys.argv[1] != "enqueue" else None


@dramatiq.actor(store_results=True)
def job(number: int) -> int:
    """Run the job."""
    return create_user_blocking(pool, number)


if __name__ == "__main__":
    for number in range(int(sys.argv[2])):
        job.send(number)
