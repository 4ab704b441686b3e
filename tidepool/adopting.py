"""Makes Tidepool's engine run the jobs of an arq application: `adopt`, the line that the application adds.

An adopted application may have a history: if a database is named, each worker writes the outcomes of its jobs there,
and the commands `tidepool --app MODULE:SETTINGS …` show them. The application's settings stay arq's; Tidepool's own
come from environment variables with the prefix `TIDEPOOL_`, such as TIDEPOOL_DATABASE_URL.
"""

import asyncio
from collections.abc import Callable, Collection
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any, TypeVar, cast

from pydantic import SecretStr, create_model

from tidepool import servers
from tidepool.engine.options import EngineOptions
from tidepool.engine.worker import StartError, Worker
from tidepool.fleet.identity import Identity
from tidepool.health.pruner import Pruner
from tidepool.jobs.job import Job
from tidepool.ledger.history import History
from tidepool.pool.side_connection import SideConnection
from tidepool.queue.connection import RedisClient
from tidepool.settings import AdoptedSettings, SettingsError

S = TypeVar("S")


def adopt(settings: S | Callable[[], S], options: EngineOptions | None = None, *, database_url: str | None = None) -> S:
    """Make Tidepool's engine run the jobs of an arq application, and return its *settings*.

        WorkerSettings = tidepool.adopt(shop.tasks.WorkerSettings)

    *settings* is what arq takes: a class, a dictionary, or an object with attributes; or a function that returns one of
    these. It gets the attribute or key `tidepool`, which holds *options*, and is otherwise unchanged, so that it may be
    completed later. From then on every worker that this process creates is one of Tidepool's, also with the `arq`
    command, `run_worker`, `create_worker` and `arq.Worker`; those without adopted settings have default options.

    *database_url* is the PostgreSQL database of the history of outcomes, by default TIDEPOOL_DATABASE_URL; without
    either there is none. `tidepool --app MODULE:SETTINGS migrate` makes its tables.
    """
    Worker.install()
    made: Any = settings
    if callable(settings) and not isinstance(settings, type) and not hasattr(settings, "functions"):
        made = settings()
    adopted = replace(options or EngineOptions(), observer=_Observer(made, database_url))
    if isinstance(made, dict):
        made["tidepool"] = adopted
    else:
        made.tidepool = adopted
    return cast("S", made)


def settings_class_of(settings: object) -> type[AdoptedSettings] | None:
    """Return the class of Tidepool's settings for adopted arq *settings*; None if `adopt` has not had *settings*."""
    options = _attributes(settings).get("tidepool")
    observer = options.observer if isinstance(options, EngineOptions) else None
    return observer.settings_class() if isinstance(observer, _Observer) else None


class _Observer:
    """Keeps the history of one worker of an adopted application, while it runs; an `engine.options.Observer`."""

    def __init__(self, settings: object, database_url: str | None) -> None:
        self._settings = settings
        self._database_url = database_url
        self._history: History | None = None
        self._open = AsyncExitStack()

    def settings_class(self) -> type[AdoptedSettings]:
        """Return the class of Tidepool's settings, whose defaults are the servers and the queue of arq's settings."""
        theirs = _attributes(self._settings)
        defaults: dict[str, Any] = {
            "redis_url": _secret(RedisClient.url_of(theirs.get("redis_settings"))),
            "database_url": _secret(self._database_url),
        }
        if "queue_name" in theirs:
            defaults["queue_name"] = (str, theirs["queue_name"])
        return create_model("AdoptedSettings", __base__=AdoptedSettings, **defaults)

    async def start(self, queue_name: str, functions: Collection[str]) -> None:  # noqa: ARG002  (of the protocol)
        """Begin to write outcomes, if there is a database. Raises `StartError` for settings that are not valid."""
        try:
            settings = self.settings_class().load()
        except SettingsError as error:
            raise StartError(str(error)) from None
        if settings.database is None:
            return
        worker_id = Identity.of_this_process().worker_id
        config = servers.pool_config(settings, settings.database.get_secret_value(), f"tidepool:{worker_id}")
        history = self._history = History(SideConnection(config, "history"), worker_id=worker_id)
        pruning = SideConnection(config, "pruner")
        pruner = Pruner(
            pruning, results_keep_days=settings.result_keep_days, snapshots_keep_days=settings.snapshot_keep_days
        )
        self._open.push_async_callback(history.close)
        self._open.push_async_callback(pruning.close)
        for work, name in ((history.run, "history"), (pruner.run, "pruner")):
            self._open.callback(asyncio.create_task(work(), name=name).cancel)

    def ended(self, job: Job) -> None:
        """Add the outcome of a job to the history."""
        if self._history is not None:
            self._history.add(job)

    async def stop(self) -> None:
        """Write the last outcomes, and close the connections."""
        self._history = None
        await self._open.aclose()


def _secret(url: str | None) -> tuple[object, SecretStr | None]:
    return SecretStr | None, None if url is None else SecretStr(url)


def _attributes(settings: object) -> dict[str, Any]:
    """Return arq's *settings* as arq reads them."""
    return cast("dict[str, Any]", settings) if isinstance(settings, dict) else getattr(settings, "__dict__", {})
