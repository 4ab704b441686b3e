"""The settings that the measured workers run with: the shop of `examples/`, on stock arq (`Stock`) or moved (`Moved`).

Both have uvloop and the options that are the fastest for stock arq. Each is made when arq asks for it, since `adopt`
changes the process.
"""

import asyncio

import uvloop

from lab.bench.targets import TUNED
from shop import tasks
from tidepool import adopt


def __getattr__(name: str) -> type:
    """Make the settings class called *name*. Raises `AttributeError` for any other name."""
    if name not in ("Stock", "Moved"):
        raise AttributeError(name)
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    tuned = type(name, (), {**vars(tasks.WorkerSettings), **TUNED})
    return tuned if name == "Stock" else adopt(tuned)
