"""The Lua scripts of `queue/lua`: each is one atomic step of Redis. Their headers list KEYS, ARGV and reply."""

from collections.abc import Awaitable, Callable
from functools import cache
from importlib.resources import files
from typing import Any, cast

from redis.asyncio import Redis

from tidepool.queue import keys

_PREFIXES = {
    "JOB": keys.JOB,
    "IN_PROGRESS": keys.IN_PROGRESS,
    "RETRY": keys.RETRY,
    "CAUSE": keys.CAUSE,
    "RESULT": keys.RESULT,
}
"""The local variables that each script begins with: the prefixes of the keys of one job."""


def load(redis: Redis, name: str) -> Callable[..., Awaitable[Any]]:
    """Return the script *name* as a function of `keys` and `args`, which are its KEYS and ARGV.

    It is sent to Redis when it is first called, and again if Redis has lost it. It returns the script's reply, and
    raises what Redis's client raises.
    """
    return cast("Callable[..., Awaitable[Any]]", redis.register_script(script_text(name)))


@cache
def script_text(name: str) -> str:
    """Return the text of a script: the prefixes, the functions of `typed.lua`, and its own lines."""
    names, values = ", ".join(_PREFIXES), ", ".join(f"'{prefix}'" for prefix in _PREFIXES.values())
    folder = files("tidepool.queue") / "lua"
    own = (folder / f"{name}.lua").read_text("utf-8")
    return f"local {names} = {values}\n{(folder / 'typed.lua').read_text('utf-8')}{own}"
