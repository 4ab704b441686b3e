"""Parses numbers on the laboratory's command lines, as types for `argparse`. Each raises `ArgumentTypeError`."""

import argparse

_MOST_S = 3600.0


def seconds(text: str) -> float:
    """Parse a time in seconds, from 0.1 to 3600."""
    return within(text, 0.1, _MOST_S)


def hold_ms(text: str) -> float:
    """Parse the time for which a connection is held, in milliseconds, from 0.1 to 3,600,000."""
    return within(text, 0.1, _MOST_S * 1000)


def milliseconds(text: str) -> float:
    """Parse a time in milliseconds, from 0 to 3,600,000."""
    return within(text, 0, _MOST_S * 1000)


def within(text: str, least: float, most: float) -> float:
    """Parse a number from *least* to *most*. Raises `ArgumentTypeError` for anything else."""
    try:
        value = float(text)
    except ValueError:
        value = least - 1
    if not least <= value <= most:  # also refuses nan
        raise argparse.ArgumentTypeError(f"{text!r} is no number from {least:g} to {most:g}")
    return value
