"""The plan of a run of `tune`: which values are measured, and in which order.

Each round measures every value once, in random order. The same value, the control, is measured before and after each
round, which shows whether the machine changed.
"""

import random
from dataclasses import dataclass
from typing import Any, Literal, Self

from tidepool.settings import Settings

LADDERS: dict[str, tuple[int, ...]] = {
    "POOL_MAX_SIZE": (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64),
    "POOL_MIN_SIZE": (0, 1, 2, 4),
    "POOL_MAX_INACTIVE_TIME": (1, 10, 300),
    "BATCH_LIMIT": (1, 10, 50, 100, 200, 500, 1000),
    "MAX_JOBS": (10, 50, 200, 500, 1000, 2000, 5000),
    "WORKERS": (1, 2, 3, 4),
}
"""The settings that can be varied, with the usual values of each.

They are about a third apart, since the measurements of closer ones differ less than the noise.
"""
WORKERS = "WORKERS"
"""The name of the number of worker processes, which can be varied like a setting of the worker."""
DEFAULTS: dict[str, str] = {
    "POOL_MIN_SIZE": "10", "POOL_MAX_SIZE": "10", "POOL_MAX_INACTIVE_TIME": "300",
    "MAX_JOBS": "10", "POLL_DELAY": "0.5", "BATCH_LIMIT": "1",
}  # fmt: skip
"""The default settings of `asyncpg.create_pool` and of arq's Worker, for comparison with tuned ones.

As neither knows batches, each job is a transaction of its own.
"""

Kind = Literal["value", "control", "defaults"]


@dataclass(frozen=True, slots=True)
class Plan:
    """All parameters of a run of `tune`, which measures several values of a setting."""

    setting: str
    """The name of the setting to vary, one of `LADDERS`."""
    values: tuple[int, ...]
    repeats: int
    seconds: float
    in_flight: int
    think_ms: float
    mix: dict[str, int]
    """The share of each job type in the load."""
    usual: dict[str, str]
    """The values of the settings in `LADDERS` when they are not varied."""
    seed: int

    @classmethod
    def read(cls, document: dict[str, Any]) -> Self:
        """Return the plan that is stored in *document*, a dictionary made by `dataclasses.asdict`."""
        fields: dict[str, Any] = {**document, "values": tuple(document["values"])}
        return cls(**fields)

    @property
    def control(self) -> int:
        """The value to measure around each round: the one of *values* that is nearest to the setting's usual value."""
        usual = float(self.usual[self.setting])
        return min(self.values, key=lambda value: (abs(value - usual), value))

    def variables(self, trial: "Trial") -> dict[str, str]:
        """Return the settings, as environment variables, of the workers that *trial* measures."""
        if trial.kind == "defaults":
            return DEFAULTS
        varied = {**self.usual, self.setting: str(trial.value)}
        if self.setting == "POOL_MAX_SIZE":
            varied["POOL_MIN_SIZE"] = str(min(int(self.usual["POOL_MIN_SIZE"]), trial.value))
        return {name: value for name, value in varied.items() if name != WORKERS}

    def workers(self, trial: "Trial") -> int:
        """Return the number of worker processes that *trial* measures."""
        return trial.value if self.setting == WORKERS and trial.kind != "defaults" else int(self.usual[WORKERS])

    @property
    def connections(self) -> int:
        """The max number of PostgreSQL connections that the workers of any trial can open."""
        return max(self.workers(trial) * (int(self.variables(trial)["POOL_MAX_SIZE"]) + 1) for trial in trials(self))


@dataclass(frozen=True, slots=True)
class Trial:
    """One measurement that is to be made. *kind* says what it is for.

    A `value` is one of the values to compare. A `control` shows whether the machine has changed. `defaults`, whose
    *value* is 0, measures the default settings of asyncpg and arq, to tell how much better the best value is.
    """

    number: int
    round: int
    value: int
    kind: Kind


def trials(plan: Plan) -> list[Trial]:
    """Return all trials of *plan* in order: a control, then for each round all values and the defaults, and a control.

    The values and the defaults of a round are shuffled. The same plan gives the same order.
    """
    chance = random.Random(plan.seed)
    order: list[tuple[int, int, Kind]] = [(0, plan.control, "control")]
    for number in range(plan.repeats):
        arms: list[tuple[int, int, Kind]] = [(number, value, "value") for value in plan.values]
        arms.append((number, 0, "defaults"))
        chance.shuffle(arms)
        order.extend(arms)
        order.append((number, plan.control, "control"))
    return [Trial(place, *what) for place, what in enumerate(order)]


def usual_of(settings: Settings, workers: int, **others: str) -> dict[str, str]:
    """Return the current values of the settings in `LADDERS`, with *workers* as WORKERS, and updated with *others*."""
    set_now = {name: str(getattr(settings, name.lower())) for name in LADDERS if name != WORKERS}
    return {**set_now, **others, WORKERS: str(workers)}
