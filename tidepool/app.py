"""Declares an application to Tidepool: its job types, settings and migrations."""

from dataclasses import dataclass, field
from importlib import import_module
from typing import LiteralString, Self

from tidepool.jobs.job import JobTypes
from tidepool.settings import Settings
from tidepool.storage.migrator import Migrations


@dataclass(frozen=True, kw_only=True)
class App:
    """An application: its job types, its settings class, and its migrations, which run after the library's own."""

    job_types: JobTypes
    settings: type[Settings] = Settings
    migrations: Migrations = field(default_factory=Migrations)

    @classmethod
    def load(cls, place: str) -> Self:
        """Import and return the application at *place*, which has the form `package.module:attribute`.

        Arq settings that `tidepool.adopt` has adopted count as an application without job types. Raises `ValueError` if
        there is none. Errors that the application's own modules raise are not caught.
        """
        found = _load(place)
        if isinstance(found, cls):
            return found
        return cls(job_types=JobTypes(()), settings=_settings_class_of(found))

    @staticmethod
    def settings_at(place: str) -> object:
        """Import and return the settings for arq's worker at *place*: those of an application, or adopted arq settings.

        The errors are those of `load`. Reads the environment, as `worker_settings` does.
        """
        found = _load(place)
        if isinstance(found, App):
            return found.worker_settings()
        _settings_class_of(found)
        return found

    @property
    def grants(self) -> list[LiteralString]:
        """Return the database privileges that the job handlers need, as in a GRANT statement before TO; see `JobType`.

        Example: `"SELECT, INSERT ON orders"`. No privilege is listed twice.
        """
        return list(dict.fromkeys(grant for job_type in self.job_types for grant in job_type.grants))

    def worker_settings(self) -> type:
        """Return the settings class that the `arq` command runs workers with.

        Reads the environment. Ends the process with status 2, and one line for each wrong variable, if it is not valid.
        """
        from tidepool.lifecycle import worker_settings  # noqa: PLC0415  (only a worker needs all of it)

        return worker_settings(self.job_types, self.settings, self.migrations)


def _load(place: str) -> object:
    """Import and return what is at *place*, which has the form `package.module:attribute`; None if there is nothing.

    Raises `ValueError` if *place* has another form, or if there is no such module. Errors that the application's own
    modules raise are not caught.
    """
    module, colon, name = place.partition(":")
    if not (module and colon and name.isidentifier()):
        raise ValueError(f"{place!r} is not of the form package.module:attribute")
    try:
        return getattr(import_module(module), name, None)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # a module that the application needs is not installed
        raise ValueError(f"no module is called {module!r}") from None


def _settings_class_of(found: object) -> type[Settings]:
    """Return the class of Tidepool's settings for adopted arq settings. Raises `ValueError` for anything else."""
    from tidepool.adopting import settings_class_of  # noqa: PLC0415  (brings the engine, which few commands need)

    if (settings := settings_class_of(found)) is None:
        raise ValueError(f"{found!r} is neither a tidepool.App nor arq settings that tidepool.adopt has adopted")
    return settings
