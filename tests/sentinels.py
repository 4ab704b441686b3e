"""A Redis with a replica and a Sentinel, from the wheel's program, for tests of a failover."""

import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from socket import socket
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError
from waiting import until

from tidepool.embedded.redis import EmbeddedRedis

NAME = "tests"
"""The name by which the Sentinel knows the primary."""


@dataclass
class Sentinel:
    """A Sentinel that watches a primary, and will make its replica the primary if that is killed."""

    port: int
    primary: "subprocess.Popen[bytes]"
    replica_port: int


@asynccontextmanager
async def a_sentinel(home: Path) -> AsyncIterator[Sentinel]:
    """Run a primary, a replica and a Sentinel with their files in *home*; give them when the Sentinel knows both."""
    primary_port, replica_port, port = _free_ports(3)
    watched = (f"monitor {NAME} 127.0.0.1 {primary_port} 1", f"down-after-milliseconds {NAME} 300")
    conf = home / "sentinel.conf"
    conf.write_text("".join(f"sentinel {line}\n" for line in (*watched, f"failover-timeout {NAME} 5000")))
    async with AsyncExitStack() as stack:
        primary, _ = await _run(stack, home, primary_port)
        _, replica = await _run(stack, home, replica_port, "--replicaof", "127.0.0.1", str(primary_port))
        await until(lambda: _is_linked(replica))
        _, sentinel = await _run(stack, home, port, "--sentinel", conf=conf)
        await until(lambda: _knows_its_replica(sentinel))
        yield Sentinel(port, primary, replica_port)


async def _run(
    stack: AsyncExitStack, home: Path, port: int, *options: str, conf: Path | None = None
) -> "tuple[subprocess.Popen[bytes], Redis]":
    """Start a server; return its process and a client of it, when it answers."""
    places = ("--port", str(port), "--bind", "127.0.0.1", "--dir", home, "--save", "")
    program = EmbeddedRedis.program("redis-server")
    command = (program, conf, "--port", str(port), *options) if conf else (program, *places, *options)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    stack.callback(process.wait)
    stack.callback(process.kill)
    client = Redis(port=port)
    stack.push_async_callback(client.aclose)
    await until(lambda: _answers(client))
    return process, client


async def _answers(client: Redis) -> bool:
    try:
        return await client.ping()
    except RedisError:  # not yet
        return False


async def _is_linked(replica: Redis) -> bool:
    return (await replica.info("replication"))["master_link_status"] == "up"


async def _knows_its_replica(sentinel: Any) -> bool:
    replicas = await sentinel.sentinel_slaves(NAME)
    return any(replica["master-link-status"] == "ok" for replica in replicas)


def _free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on."""
    sockets = [socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
