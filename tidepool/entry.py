"""What the `arq` command finds in an application's package: `WorkerSettings`, made when it is asked for."""

import sys
from collections.abc import Callable

from tidepool import process


def app_on_demand(package: str, place: str) -> Callable[[str], object]:
    """Return the `__getattr__` of *package*, which has its application and, for the `arq` command, `WorkerSettings`.

    *place* says where the application is, as `package.module:attribute`; the package has it under the same name. It is
    imported only when it is asked for, and the environment is read only for `WorkerSettings`: other parts of the
    package can be imported without either.

        __getattr__ = app_on_demand(__name__, "shop.application:app")
    """
    app = place.partition(":")[2]

    def attribute(name: str) -> object:
        if name in (app, "WorkerSettings"):
            if process.is_arq_command():
                process.prepare()  # before the imports below, which take a second
                process.terminate_on_hangup()
            from tidepool.app import load_app  # noqa: PLC0415

            found = load_app(place)
            return found if name == app else found.worker_settings()
        if process.is_arq_command() and f"{package}.{name}" in sys.argv:
            print(f"error: no settings are called {name}: arq {package}.WorkerSettings", file=sys.stderr)  # noqa: T201
            sys.exit(process.ERROR)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return attribute
