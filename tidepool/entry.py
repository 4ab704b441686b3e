"""Lets the `arq` command import `WorkerSettings` from an application's package; the class is made at its first use."""

import sys
from collections.abc import Callable

from tidepool import process


def app_on_demand(package: str, place: str) -> Callable[[str], object]:
    """Return a `__getattr__` for *package* that provides the application and arq's `WorkerSettings` at their first use.

    *place* is where the application is, as `package.module:attribute`; the package exports the application under the
    same name. The application is imported only when one of the two names is used, and the environment is read only for
    `WorkerSettings`: other parts of the package can be imported without either.

        __getattr__ = app_on_demand(__name__, "shop.application:app")
    """
    app = place.partition(":")[2]

    def attribute(name: str) -> object:
        if name in (app, "WorkerSettings"):
            if process.is_arq_command():
                process.prepare(hangup_terminates=True)  # before the imports below, which take a second
            from tidepool.app import App  # noqa: PLC0415

            found = App.load(place)
            return found if name == app else found.worker_settings()
        if process.is_arq_command() and f"{package}.{name}" in sys.argv:
            print(f"error: no settings are called {name}: arq {package}.WorkerSettings", file=sys.stderr)  # noqa: T201
            sys.exit(process.ERROR)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return attribute
