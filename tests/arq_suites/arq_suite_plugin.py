"""A pytest plugin for arq's own test suite: runs it on the Redis and on the Worker that the environment names.

`ARQ_SUITE_REDIS_PORT` is the port of a Redis on this machine. `ARQ_SUITE_WORKER` is `stock` or `ours`.
"""

import os
import sys
from types import ModuleType
from typing import Any, Self


class RedisContainer:
    """Stands in for the class of `testcontainers.redis` of which arq's tests make their Redis, in Docker."""

    port = port_to_expose = 6379  # the name depends on the version of testcontainers

    def __init__(self, _image: str) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def get_container_host_ip(self) -> str:
        """Return the address of this machine."""
        return "127.0.0.1"

    def get_exposed_port(self, _port: int) -> int:
        """Return the port of the Redis that runs already."""
        return int(os.environ["ARQ_SUITE_REDIS_PORT"])


module: Any = ModuleType("testcontainers.redis")
module.RedisContainer = RedisContainer
sys.modules["testcontainers"] = ModuleType("testcontainers")
sys.modules["testcontainers.redis"] = module

if os.environ["ARQ_SUITE_WORKER"] == "ours":
    from tidepool.engine.worker import Worker

    Worker.install()
