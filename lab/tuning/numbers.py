"""Numbers on the laboratory's command lines, for argparse."""

import argparse

_MOST_S = 3600.0


def seconds(text: str) -> float:
    """Read seconds: from a tenth to an hour."""
    return within(text, 0.1, _MOST_S)


def hold_ms(text: str) -> float:
    """Read for how long a connection is held: from a tenth of a millisecond to an hour."""
    return within(text, 0.1, _MOST_S * 1000)


def milliseconds(text: str) -> float:
    """Read milliseconds: from none to an hour."""
    return within(text, 0, _MOST_S * 1000)


def within(text: str, least: float, most: float) -> float:
    """Read a number from *least* to *most*."""
    try:
        value = float(text)
    except ValueError:
        value = least - 1
    if not least <= value <= most:  # also refuses nan
        raise argparse.ArgumentTypeError(f"{text!r} is no number from {least:g} to {most:g}")
    return value
