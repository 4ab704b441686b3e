"""The service: create-user, create-product and place-order jobs, as an application of the library `tidepool`.

- `jobs`     the commands and their handlers, one file each
- `tables`   users, products and orders: a repository each, and their SQL
- `reasons`  why a job is rejected

Start a worker with `arq worker.WorkerSettings`; operators' commands are under `python -m worker`.
"""

import sys
from typing import TYPE_CHECKING, Any

from tidepool import process

if TYPE_CHECKING:
    from tidepool.app import App

    app: App


def __getattr__(name: str) -> Any:
    """Make `app` and `WorkerSettings` on request: importing a part of this package reads no environment."""
    if name in ("app", "WorkerSettings"):
        if process.is_arq_command():
            process.prepare()  # before the imports below, which take a second
            process.terminate_on_hangup()
        from settings import Settings  # noqa: PLC0415
        from tidepool.app import App  # noqa: PLC0415
        from tidepool.storage.migrator import Migrations  # noqa: PLC0415
        from worker.jobs import JOBS  # noqa: PLC0415

        app = App(job_types=JOBS, settings=Settings, migrations=Migrations(service="worker.tables"))
        return app if name == "app" else app.worker_settings()
    if process.is_arq_command() and f"{__name__}.{name}" in sys.argv:
        print(f"error: no settings are called {name}: arq {__name__}.WorkerSettings", file=sys.stderr)  # noqa: T201
        sys.exit(process.ERROR)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
