"""Prints the results of a run of `tune`: a table, warnings, and the recommended settings."""

from collections.abc import Mapping

from lab.tuning import plot
from lab.tuning.knee import Knee
from lab.tuning.record import Record
from lab.tuning.trials import WORKERS, Plan
from lab.tuning.tune import Agreement, TuningReport, TuningRow
from tidepool.cli import terminal

_QUIET_CORES = 0.3


def show(record: Record, report: TuningReport) -> None:
    """Print the results of a run: a table of all values, then the lines of `words`."""
    console = terminal.console()
    table = terminal.figures_table(
        (record.plan.setting, "jobs/s", "of best", "lowest", "highest", "wait p50", "p95", "p99",
         "latency p50", "p95", "p99", "CPU worker", "postgres", "redis",
         "MB worker", "postgres", "connections", "bound by"),
        words=("bound by",),
    )  # fmt: skip
    for row in report.rows:
        table.add_row(*_cells(row, report.knee))
    console.print(table)
    console.print("medians; times in ms, CPU in cores; * the knee\n")
    for line in words(record, report):
        console.print(line)


def _cells(row: TuningRow, knee: Knee | None) -> list[str]:
    mark = " *" if knee and row.value == knee.size else ""
    if not row.arms:
        return [f"{row.value}{mark}", "no valid arm"]
    rates = [f"{row.jobs_per_second:,}", f"{row.of_best:.0%}", f"{row.lowest:,.0f}", f"{row.highest:,.0f}"]
    ms = [_figure(times.get(share)) for times in (row.wait_ms, row.latency_ms) for share in ("p50", "p95", "p99")]
    cores = [_cores(row.cpu.get(who)) for who in ("worker", "postgresql", "redis")]
    memory = [_figure(row.memory_mb.get(who)) for who in ("worker", "postgresql")]
    return [f"{row.value}{mark}", *rates, *ms, *cores, *memory, f"{row.connections['open']:.0f}", row.bound]


def words(record: Record, report: TuningReport) -> list[str]:
    """Return the conclusions of a run, line by line: warnings, the knee, and the recommended settings.

    The knee is the smallest value that is about as good as the best. Nothing is recommended before all is measured, or
    if the noise is too large.
    """
    lines = _cautions(report)
    knee = report.knee
    if report.arms < report.of:
        left = f"{report.arms} of {report.of} arms are measured; go on with --resume {record.directory}"
        return [*lines, left]
    if knee is None:
        return [*lines, "no arm counts, so there is nothing to recommend"]
    upto = f" to {knee.plateau[-1]}" if len(knee.plateau) > 1 else ""
    lines.append(f"knee: {knee.size}; as good: {knee.size}{upto} (a median is off by {knee.error:.1%})")
    if not knee.clear:
        return [
            *lines,
            "that is too much noise to tell values apart, so nothing is recommended: run it again when quiet",
        ]
    return [*lines, *_recommendation(record.plan, report, knee), f"kept in {record.directory}"]


def _cautions(report: TuningReport) -> list[str]:
    """Return warnings about the measurements: invalid arms, an unsteady machine, or other work on it."""
    lines = [f"does not count: {count} of the arms, {reason}" for reason, count in report.invalid.items()]
    if report.plot is None:
        lines.append(plot.MISSING)
    drift, others = report.drift, report.others or 0.0
    if not drift.steady:
        lines.append(f"the machine was not steady: the same value came apart by {drift.spread:.0%}")
    if others > _QUIET_CORES:
        lines.append(f"other work took {others:.1f} cores meanwhile: run it again when the machine is quiet")
    return lines


def _recommendation(plan: Plan, report: TuningReport, knee: Knee) -> list[str]:
    """Return lines that name the settings to use, the connections that they need, and how much they gain."""
    lines = ["the largest value is the best: there may be better ones beyond it"] if knee.rising else []
    if plan.setting == "POOL_MAX_SIZE":
        lines += _connections(plan, report.advisor, knee)
    others = {name: value for name, value in plan.usual.items() if name != plan.setting}
    lines += [f"the others were {_pairs(others)}; jobs: {_pairs(plan.mix)}", "", "use"]
    lines += [
        f"  {value} worker processes" if name == WORKERS else f"  {name}={value}"
        for name, value in report.settings.items()
    ]
    if defaults := report.defaults:
        lines.append(
            f"that does {defaults.factor:.1f} times as many jobs as a worker with the defaults of asyncpg and arq,"
            f" {defaults.jobs_per_second:,}/s: {_pairs(defaults.settings)}"
        )
    return lines


def _connections(plan: Plan, said: Agreement | None, knee: Knee) -> list[str]:
    usual = int(plan.usual[plan.setting])
    lines = [_advisor(said)]
    if usual in knee.plateau:
        lines.append(f"{plan.setting}={usual}, as it is set now, is as good")
    each = knee.size + 1
    return [*lines, f"{plan.usual[WORKERS]} x {each} connections: {knee.size} of each worker's pool, one beside it"]


def _advisor(said: Agreement | None) -> str:
    if said is None:
        return "the advisor has not seen this size"
    if said.agrees is None:
        return f"the advisor gives no advice at this size: {said.verdict}, {said.words}"
    agrees = "agrees" if said.agrees else "does not agree"
    return f"the advisor {agrees}: asked at this size, it says {said.advised}"


def _figure(value: float | None) -> str:
    return terminal.cell(value)


def _cores(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _pairs(values: Mapping[str, object]) -> str:
    return ", ".join(f"{name}={value}" for name, value in values.items())
