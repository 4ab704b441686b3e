"""Defines what a fault is, and the actions that several faults have in common."""

import asyncio
import os
import random
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from lab.drill.arena import Arena
from lab.drill.proxy import Proxy
from tidepool.embedded.server import Server

Inject = Callable[[Arena, random.Random], Awaitable[list[str] | None]]

SHORT_S, AWAY_S, LONG_S = 3.0, 6.0, 15.0
"""Durations of faults, in seconds: less than a lease (5 s); more than it and any connection timeout; three leases."""


class NotHereError(Exception):
    """A fault cannot be injected on this machine. The text says why."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One way to break the system, with a name and a description (*words*).

    `inject` breaks something and returns when it is repaired. If it returns ids of jobs, the service has recovered when
    these jobs have ended; if None, when any job has ended since the repair.
    """

    name: str
    words: str
    inject: Inject
    is_burst: bool = False
    """Whether `inject` strikes `Arena.shots` times in a row, without a rest between them."""
    needs_own_servers: bool = False
    """Whether the fault stops, fills or reconfigures a server. It is not injected into servers that the user names."""
    loses_queue: bool = False
    """Whether the fault makes Redis lose its queue. The drill then reports the lost jobs, and enqueues them again."""


async def away(arena: Arena, server: Server, number: signal.Signals, seconds: float = 0.0) -> None:
    """Stop a server with a signal, wait for *seconds*, and start it again."""
    await arena.stop_server(server, number)
    await asyncio.sleep(seconds)
    await arena.start_server(server)


async def pause(pid: int, seconds: float) -> None:
    """Suspend a process with SIGSTOP for *seconds*."""
    os.kill(pid, signal.SIGSTOP)
    try:
        await asyncio.sleep(seconds)
    finally:
        os.kill(pid, signal.SIGCONT)


async def freeze(proxies: list[Proxy], seconds: float) -> None:
    """Let no data pass through *proxies* for *seconds*. The connections stay open."""
    for proxy in proxies:
        proxy.freeze()
    try:
        await asyncio.sleep(seconds)
    finally:
        for proxy in proxies:
            proxy.thaw()


async def cut_often(proxies: list[Proxy], chance: random.Random) -> None:
    """Cut all connections of a random one of *proxies*, twenty times, 0.05 to 0.4 s apart."""
    for _ in range(20):
        await asyncio.sleep(chance.uniform(0.05, 0.4))
        chance.choice(proxies).reset()


async def delayed(proxies: list[Proxy], delay_s: float) -> None:
    """Delay all data that pass through *proxies* by *delay_s* seconds, for six seconds."""
    for proxy in proxies:
        proxy.delay_s = delay_s
    await asyncio.sleep(AWAY_S)
    for proxy in proxies:
        proxy.delay_s = 0.0
