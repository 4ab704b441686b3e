"""The service's settings: those of every Tidepool application, and its own."""

from typing import Annotated

from pydantic import Field

from tidepool import Settings as TidepoolSettings
from tidepool import SettingsError, child_environment, without_password

__all__ = ["Settings", "SettingsError", "child_environment", "load", "without_password"]


class Settings(TidepoolSettings):
    """Every setting of the service, with unit, default and bounds. Immutable."""

    # The producer's generated workloads.
    simulation_concurrency: Annotated[int, Field(ge=1, le=64)] = 4
    """Bulk enqueues that the producer has under way at a time. Default 4."""


load = Settings.load
