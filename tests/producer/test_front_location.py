"""The Location of an answer: made of a result in Redis, which anybody who may write there can have made."""

from typing import Any

import pytest

from producer.http.commands import _location
from tidepool.jobs.outcomes import Applied


@pytest.mark.parametrize("value", ["1\r\nSet-Cookie: a=b", "é\u2028", "1", 1.5, True, None, [], {}])
def test_only_a_number_becomes_a_header(value: Any) -> None:
    """Text could end the header and begin another one, or have characters that no header can have."""
    assert {} == _location(Applied({"user_id": value}))


def test_the_created_row_is_named() -> None:
    """By its path."""
    assert {"Location": "/users/7"} == _location(Applied({"user_id": 7}))
