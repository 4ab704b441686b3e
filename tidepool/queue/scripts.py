"""The Lua scripts of `queue/lua`: each is one atomic step of Redis. Their headers list KEYS, ARGV and reply."""

from collections.abc import Awaitable
from functools import cache
from importlib.resources import files
from typing import Any, Protocol

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


class Script(Protocol):
    """A script as a function; *keys* and *args* are its KEYS and ARGV."""

    def __call__(self, keys: list[str], args: list[Any]) -> Awaitable[Any]:
        """Run it in Redis; returns its reply. Raises what Redis's client raises."""
        ...


def load(redis: Redis, name: str) -> Script:
    """Return the script *name*, which is sent to Redis when it is first called."""
    client: Any = redis
    return client.register_script(script_text(name))


@cache
def script_text(name: str) -> str:
    """Return the text of a script: the prefixes, the functions of `typed.lua`, and its own lines."""
    names, values = ", ".join(_PREFIXES), ", ".join(f"'{prefix}'" for prefix in _PREFIXES.values())
    folder = files("tidepool.queue") / "lua"
    own = (folder / f"{name}.lua").read_text("utf-8")
    return f"local {names} = {values}\n{(folder / 'typed.lua').read_text('utf-8')}{own}"
