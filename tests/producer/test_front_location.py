"""The Location of an answer: made of a result in Redis, which anybody who may write there can have made."""

from typing import Any

import pytest

from tidepool import Applied
from tidepool.web import JobRequests

REQUESTS = JobRequests(places={"user_id": "/users/"})


@pytest.mark.parametrize("value", ["1\r\nSet-Cookie: a=b", "é\u2028", "1", 1.5, True, None, [], {}])
def test_only_a_number_becomes_a_header(value: Any) -> None:
    """Text could end the header and begin another one, or have characters that no header can have."""
    assert {} == REQUESTS.location(Applied({"user_id": value}))


def test_the_created_row_is_named() -> None:
    """By its path."""
    assert {"Location": "/users/7"} == REQUESTS.location(Applied({"user_id": 7}))
