"""Keeps a run of `tune` in a directory: its plan, each measurement as soon as it is made, and at the end the report."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from lab.tuning.arm import Arm
from lab.tuning.trials import Plan
from tidepool.cli.terminal import CommandError

_PLAN, _ARMS, _REPORT, _TABLE = "plan.json", "arms.jsonl", "report.json", "arms.csv"


class Record:
    """A run of `tune`, kept in *directory*: its plan and its measurements.

    The files are `plan.json` and `arms.jsonl`, and after `finish` also `report.json` and `arms.csv`.
    """

    def __init__(self, directory: Path, plan: Plan, arms: Sequence[Arm] = ()) -> None:
        self.directory = directory
        self.plan = plan
        self.arms = list(arms)

    @classmethod
    def begin(cls, directory: Path, plan: Plan) -> "Record":
        """Start a new run in *directory*. Raises `CommandError` if it has a run already, or cannot be created."""
        try:
            directory.mkdir(parents=True, exist_ok=True)
            with (directory / _PLAN).open("x", encoding="utf-8") as file:
                json.dump(asdict(plan), file, indent=2)
        except FileExistsError:
            raise CommandError(f"{directory} has a run already: go on with it by --resume, or name another") from None
        except OSError as error:
            raise CommandError(f"{directory}: {error.strerror}") from None
        return cls(directory, plan)

    @classmethod
    def resume(cls, directory: Path) -> "Record":
        """Return the run in *directory*, to continue it. A measurement that was not written completely is made again.

        Raises `CommandError` if there is no run, or one of another version.
        """
        try:
            plan = Plan.read(json.loads((directory / _PLAN).read_text("utf-8")))
            arms = [Arm.read(json.loads(line)) for line in _whole_lines(directory / _ARMS)]
        except (OSError, ValueError, TypeError, KeyError):
            raise CommandError(f"{directory} has no run to go on with, or one of another version") from None
        return cls(directory, plan, arms)

    def add(self, arm: Arm) -> None:
        """Append one measurement to `arms.jsonl`."""
        with (self.directory / _ARMS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(arm)) + "\n")
        self.arms.append(arm)

    def finish(self, document: Mapping[str, object]) -> None:
        """Write the report *document* and the table of all measurements. Earlier ones of the same run are replaced."""
        (self.directory / _REPORT).write_text(json.dumps(document, indent=2) + "\n", "utf-8")
        rows = [_flat(asdict(arm)) for arm in self.arms]
        with (self.directory / _TABLE).open("w", encoding="utf-8", newline="") as file:
            columns = {name: None for row in rows for name in row}  # an arm in which no job ended lacks some
            table = csv.DictWriter(file, list(columns), lineterminator="\n")
            table.writeheader()
            table.writerows(rows)


def _whole_lines(path: Path) -> list[str]:
    """Return the complete lines of a file. If the last line is incomplete, it is removed from the file."""
    if not path.exists():
        return []
    text = path.read_text("utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole, "utf-8")
    return whole.splitlines()


def _flat(document: Mapping[str, object]) -> dict[str, object]:
    """Return *document* without nested dictionaries: their keys follow the outer key, as in `wait_ms.p50`."""
    flat: dict[str, object] = {}
    for name, value in document.items():
        inner: dict[str, object] | None = value if isinstance(value, dict) else None
        flat |= {f"{name}.{key}": figure for key, figure in inner.items()} if inner is not None else {name: value}
    return flat
