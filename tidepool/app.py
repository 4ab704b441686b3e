"""An application: what Tidepool needs to know of the program that uses it."""

from dataclasses import dataclass, field
from importlib import import_module
from typing import LiteralString

from tidepool.jobs.job import JobTypes
from tidepool.settings import Settings
from tidepool.storage.migrator import Migrations


@dataclass(frozen=True, kw_only=True)
class App:
    """An application's job types, the class of its settings, and its tables' migrations after the library's own."""

    job_types: JobTypes
    settings: type[Settings] = Settings
    migrations: Migrations = field(default_factory=Migrations)

    @property
    def grants(self) -> list[LiteralString]:
        """Return what the handlers of all job types may do in PostgreSQL; see `JobType`."""
        return list(dict.fromkeys(grant for job_type in self.job_types for grant in job_type.grants))

    def worker_settings(self) -> type:
        """Return the settings class that the `arq` command runs workers with.

        Reads the environment. Ends the process with status 2, and one line for each wrong variable, if it is not valid.
        """
        from tidepool.lifecycle import worker_settings  # noqa: PLC0415  (only a worker needs all of it)

        return worker_settings(self.job_types, self.settings, self.migrations)


def load_app(place: str) -> App:
    """Import an application from *place*, as `package.module:attribute`.

    Raises `ValueError` if there is none; errors of the application's own modules go through.
    """
    module, colon, name = place.partition(":")
    if not (module and colon and name.isidentifier()):
        raise ValueError(f"{place!r} is not of the form package.module:attribute")
    try:
        app: object = getattr(import_module(module), name, None)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # a module that the application needs is not installed
        raise ValueError(f"no module is called {module!r}") from None
    if not isinstance(app, App):
        raise ValueError(f"{place!r} is not a tidepool.App")  # noqa: TRY004  (the caller reports both as one line)
    return app
