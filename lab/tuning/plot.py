"""Draws plots of measurements, if matplotlib is installed; it is in the dependency group `lab`."""

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from lab.tuning.record import Record
from lab.tuning.tune import TuningReport

MISSING = "no plot: matplotlib is not installed (uv sync --group lab)"
_FILE = "tune.png"


def values(record: Record, report: TuningReport) -> str | None:
    """Draw the rate, the times and the CPU of each value of a run of `tune`, and return the file's path.

    Returns None if there are no valid measurements, or no matplotlib.
    """
    rows = [row for row in report.rows if row.arms]
    knee = report.knee
    figure = new_figure(3) if rows else None
    if figure is None or knee is None:
        return None
    rates, times, cores = figure.axes
    xs = [row.value for row in rows]
    measured = [arm for arm in record.arms if arm.kind == "value" and not arm.invalid]
    rates.plot([arm.value for arm in measured], [arm.jobs_per_second for arm in measured], ".", alpha=0.4, label="arms")
    rates.plot(xs, [row.jobs_per_second for row in rows], "o-", label="median")
    rates.axhline(0.95 * knee.best, linestyle=":", color="gray", label="95 % of the best")
    rates.set_ylabel("jobs a second")
    for name in ("p50", "p95", "p99"):
        times.plot(xs, [row.latency_ms.get(name) for row in rows], "o-", label=f"latency {name}")
    times.plot(xs, [row.wait_ms.get("p95") for row in rows], "o--", label="wait p95")
    times.set_ylabel("ms")
    for who in ("worker", "postgresql", "redis", "client"):
        if rows[0].cpu.get(who) is not None:
            cores.plot(xs, [row.cpu[who] for row in rows], "o-", label=who)
    cores.set_ylabel("cores")
    cores.set_xlabel(record.plan.setting)
    for axes in figure.axes:
        axes.axvline(knee.size, color="tab:red", linewidth=1)
        axes.set_xscale("log" if min(xs) else "symlog", base=2)
        axes.set_xticks(xs, [str(x) for x in xs])
        axes.set_ylim(bottom=0)
        axes.legend(fontsize="small")
    rates.set_title(f"knee at {knee.size}")
    path = record.directory / _FILE
    figure.savefig(path, dpi=110)
    return str(path)


def new_figure(rows: int) -> Any:
    """Return a matplotlib figure with *rows* plots below each other; None if matplotlib is not installed."""
    if find_spec("matplotlib") is None:
        return None
    figure: Any = import_module("matplotlib.figure").Figure(figsize=(8, 2.8 * rows), layout="constrained")
    figure.subplots(rows, 1, sharex=True)
    return figure
