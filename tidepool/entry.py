"""What the `arq` command finds in an application's module: `WorkerSettings`, made when it is asked for."""

import sys
from collections.abc import Callable

from tidepool import process


def worker_settings_on_demand(module: str, app: str) -> Callable[[str], type]:
    """Return the `__getattr__` of *module*, which makes `WorkerSettings` of an application.

    *app* says where the application is, as `package.module:attribute`. It is imported, and the environment is read,
    only when the `arq` command asks for `WorkerSettings`: other parts of the package can be imported without either.

        __getattr__ = worker_settings_on_demand(__name__, "shop.app:app")
    """

    def attribute(name: str) -> type:
        if name == "WorkerSettings":
            if process.is_arq_command():
                process.prepare()  # before the imports below, which take a second
            from tidepool.app import load_app  # noqa: PLC0415

            return load_app(app).worker_settings()
        if process.is_arq_command() and f"{module}.{name}" in sys.argv:
            print(f"error: no settings are called {name}: arq {module}.WorkerSettings", file=sys.stderr)  # noqa: T201
            sys.exit(process.ERROR)
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    return attribute
