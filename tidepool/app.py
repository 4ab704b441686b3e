"""An application: what Tidepool has to know of the program that uses it."""

from dataclasses import dataclass

from tidepool import process
from tidepool.jobs.job import JobTypes
from tidepool.settings import Settings


@dataclass(frozen=True, kw_only=True)
class App:
    """An application's job types, and the class of its settings."""

    job_types: JobTypes
    settings: type[Settings] = Settings

    def worker_settings(self) -> type:
        """Return the settings class that the `arq` command runs workers with.

        Reads the environment. Ends the process with status 2, and one line for each wrong variable, if it is not valid.
        """
        if process.is_arq_command():
            process.prepare()
            process.terminate_on_hangup()
        from tidepool.lifecycle import worker_settings  # noqa: PLC0415  (only a worker needs all of it)

        return worker_settings(self.job_types, self.settings)
