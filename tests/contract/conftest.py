"""The two implementations of `worker.jobs.ports` that the contract is tried on."""

from typing import Any

import pytest
from fakes import FakeRepositories

from tidepool.storage.repositories import Repositories


@pytest.fixture
def real_repositories(connection: Any) -> Repositories:
    """Give the repositories of a connection to PostgreSQL."""
    return Repositories(connection)


@pytest.fixture(params=["dictionaries", "postgresql"])
def repositories(request: pytest.FixtureRequest) -> Any:
    """Give each implementation in turn."""
    return FakeRepositories() if request.param == "dictionaries" else request.getfixturevalue("real_repositories")
