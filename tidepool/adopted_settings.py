"""The settings of Tidepool in an adopted arq application; `tidepool.settings` describes each."""

import os
import sys
from collections.abc import Collection

from pydantic_settings import SettingsConfigDict

from tidepool.embedded import Urls
from tidepool.settings import ServerVariable, Settings


class AdoptedSettings(Settings):
    """The settings of Tidepool in an adopted arq application, from variables with the prefix `TIDEPOOL_`.

    So DATABASE_URL and the like stay the application's own. Queue and Redis are those of its arq settings: they are the
    defaults of a subclass that `adopting` makes. Without a database there is no history of outcomes.
    """

    model_config = SettingsConfigDict(env_prefix="TIDEPOOL_")

    @classmethod
    def are_used(cls) -> bool:
        """Return whether a worker has a use for the settings: a database for records is named, or a METRICS_PORT.

        Otherwise it need not read them, and no other variable that is wrong keeps it from running jobs.
        """
        uses = {"TIDEPOOL_DATABASE_URL", "TIDEPOOL_DB_HOST", "TIDEPOOL_METRICS_PORT"}
        is_named = any(name.upper() in uses and value.strip() for name, value in os.environ.items())
        return is_named or cls.model_fields["database_url"].default is not None

    def _require_both_servers(self) -> None:
        pass

    @property
    def embedded(self) -> bool:
        """False: an adopted application has servers of its own."""
        return False

    @property
    def urls(self) -> Urls:
        """The URLs of PostgreSQL and Redis; empty if there is no history, or if a Sentinel has to be asked."""
        urls = (url.get_secret_value() if url else "" for url in (self.database, self.redis_url))
        return Urls(*urls)

    def variables_of_worker(self, number: int) -> dict[str, str]:
        """Return the variable with the METRICS_PORT of worker *number*; the name of the health key is arq's."""
        return {
            f"TIDEPOOL_{name}": port
            for name, port in super().variables_of_worker(number).items()
            if name == "METRICS_PORT"
        }

    def require_servers(self, needed: Collection[ServerVariable]) -> None:
        """Print the first of the *needed* servers that is not named, and exit with status 2, if there is one."""
        for server, url in (("database_url", self.database), ("redis_url", self.redis_url)):
            if server in needed and url is None:
                print(f"TIDEPOOL_{server.upper()}: is not set", file=sys.stderr)  # noqa: T201  (a command's start)
                raise SystemExit(2)
