"""The settings of the service: those of every Tidepool application, and its own."""

from typing import Annotated

from pydantic import Field

from tidepool import Settings as TidepoolSettings
from tidepool import SettingsError, without_password

__all__ = ["Settings", "SettingsError", "load", "without_password"]


class Settings(TidepoolSettings):
    """All settings of the service, each with its unit, default and bounds. Instances are immutable."""

    db_schema: str = "public"
    """Schema of the library's tables. Default public, beside users, products and orders."""

    # The producer's generated workloads.
    simulation_concurrency: Annotated[int, Field(ge=1, le=64)] = 4
    """Max number of bulk enqueues that the producer has in flight at a time for a generated workload. Default 4."""


load = Settings.load
