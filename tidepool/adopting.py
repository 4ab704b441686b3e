"""Makes Tidepool's engine run the jobs of an arq application: `adopt`, the line that the application adds."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

from tidepool.engine.options import EngineOptions
from tidepool.engine.worker import Worker

S = TypeVar("S")


def adopt(settings: S | Callable[[], S], options: EngineOptions | None = None) -> S:
    """Make Tidepool's engine run the jobs of an arq application, and return its *settings*.

        WorkerSettings = tidepool.adopt(shop.tasks.WorkerSettings)

    *settings* is what arq takes: a class, a dictionary, or an object with attributes; or a function that returns one of
    these. It gets the attribute or key `tidepool`, which holds *options*, and is otherwise unchanged, so that it may be
    completed later. From then on every worker that this process creates is one of Tidepool's, also with the `arq`
    command, `run_worker`, `create_worker` and `arq.Worker`; those without adopted settings have default options.
    """
    Worker.install()
    made: Any = settings
    if callable(settings) and not isinstance(settings, type) and not hasattr(settings, "functions"):
        made = settings()
    if isinstance(made, dict):
        made["tidepool"] = options or EngineOptions()
    else:
        made.tidepool = options or EngineOptions()
    return cast("S", made)
