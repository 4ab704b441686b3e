"""An application: what Tidepool has to know of the program that uses it."""

from dataclasses import dataclass, field
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
