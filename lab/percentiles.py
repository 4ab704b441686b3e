"""Percentiles of measured values, by the same rule in all reports: the nearest rank."""

from collections.abc import Sequence


def percentiles(values: Sequence[float], shares: Sequence[float] = (0.5, 0.95, 0.99)) -> dict[str, float]:
    """Return percentiles of *values* by name (`p95`), rounded to two decimals; an empty dictionary for no values.

    A percentile is the smallest value that this share of all values does not exceed.
    """
    ordered = sorted(values)
    return {f"p{100 * share:.0f}": round(ordered[_rank(share, len(ordered))], 2) for share in shares if ordered}


def _rank(share: float, count: int) -> int:
    """Return the index of the percentile *share* in a sorted list of *count* values."""
    return max(0, -int(-share * count // 1) - 1)
