"""What a fault is, and what several of them do."""

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
"""Shorter than the lease of five seconds; longer than it, and than any patience of a connection; three leases."""


class NotHereError(Exception):
    """The fault cannot be injected on this machine; the text says why."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One way to break things. `inject` returns when it is mended; with jobs, where recovery is that these end."""

    name: str
    words: str
    inject: Inject
    is_burst: bool = False
    """Whether it strikes `Arena.shots` times, with no rest between them."""
    needs_own_servers: bool = False
    """Whether it stops, fills or reconfigures a server, and is left out of a drill on servers that the user names."""
    loses_queue: bool = False
    """Whether jobs that are in Redis only are gone by it: reported by id, and enqueued again."""


async def away(arena: Arena, server: Server, number: signal.Signals, seconds: float = 0.0) -> None:
    """End a server with a signal, and start it again after so long."""
    await arena.stop_server(server, number)
    await asyncio.sleep(seconds)
    await arena.start_server(server)


async def pause(pid: int, seconds: float) -> None:
    """Stop a process for so long."""
    os.kill(pid, signal.SIGSTOP)
    try:
        await asyncio.sleep(seconds)
    finally:
        os.kill(pid, signal.SIGCONT)


async def freeze(proxies: list[Proxy], seconds: float) -> None:
    """Let nothing pass for so long."""
    for proxy in proxies:
        proxy.freeze()
    try:
        await asyncio.sleep(seconds)
    finally:
        for proxy in proxies:
            proxy.thaw()


async def cut_often(proxies: list[Proxy], chance: random.Random) -> None:
    """Cut all connections of one of *proxies*, twenty times."""
    for _ in range(20):
        await asyncio.sleep(chance.uniform(0.05, 0.4))
        chance.choice(proxies).reset()


async def delayed(proxies: list[Proxy], delay_s: float) -> None:
    """Hold back everything by so much, for a while."""
    for proxy in proxies:
        proxy.delay_s = delay_s
    await asyncio.sleep(AWAY_S)
    for proxy in proxies:
        proxy.delay_s = 0.0
