"""Loads the Lua scripts of `queue/lua`, which Redis executes atomically. Their headers list KEYS, ARGV and reply."""

from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any, Protocol, cast

from redis.asyncio import Redis

from tidepool.queue import wire

MOST_AT_ONCE = 250
"""Max jobs in one call of a script: larger calls are slower for each job, and Lua cannot unpack thousands of values."""
MOST_BYTES_AT_ONCE = 4 * 1024 * 1024
"""Max bytes of ids and payloads in one claim, and of results in one acknowledgement: Redis copies them several times
during a call. A single job may have more."""
_PREFIXES = {
    "JOB": wire.JOB,
    "IN_PROGRESS": wire.IN_PROGRESS,
    "RETRY": wire.RETRY,
    "CAUSE": wire.CAUSE,
    "RESULT": wire.RESULT,
}
"""Local variables that are defined at the start of each script: the prefixes of the keys of one job."""


class _Script(Protocol):
    sha: str
    """The digest by which Redis knows the script."""

    def __call__(self, *, keys: Sequence[str], args: Sequence[object]) -> Any: ...


def load(redis: Redis, name: str) -> _Script:
    """Return the Lua script *name* as a function of `keys` and `args`, which are the KEYS and ARGV of the script.

    The function returns the script's reply and raises the errors of Redis's client. It sends
    the script to Redis when it is first called, and again if Redis has lost it.
    """
    return cast("_Script", redis.register_script(_text(name)))


@cache
def _text(name: str) -> str:
    """Return the source of the script *name*: the key prefixes, the functions of `typed.lua`, and its own lines."""
    names, values = ", ".join(_PREFIXES), ", ".join(f"'{prefix}'" for prefix in _PREFIXES.values())
    folder = files("tidepool.queue") / "lua"
    own = (folder / f"{name}.lua").read_text("utf-8")
    return f"local {names} = {values}\n{(folder / 'typed.lua').read_text('utf-8')}{own}"
