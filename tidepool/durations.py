"""Parses lengths of time such as 90s, 10m, 1.5h and 7d, as users write them in options and in requests of the API."""

import re
from datetime import timedelta

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_LONGEST_S = 36_500 * _UNITS_S["d"]
"""Max duration in seconds, 100 years, so that now less a duration is a time that the calendar has."""
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)([smhd])")


def parse(text: str) -> timedelta:
    """Parse a duration: a number followed by s, m, h or d. The text of the `ValueError` can be shown to the user."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a duration such as 90s, 10m, 1.5h or 7d")
    seconds = float(match[1]) * _UNITS_S[match[2]]
    if seconds > _LONGEST_S:
        raise ValueError(f"{text!r} is longer than 36500d")
    return timedelta(seconds=seconds)
