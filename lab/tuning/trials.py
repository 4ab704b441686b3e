"""What `tune` measures, in which order: every value in every round, shuffled, with the same value around each round."""

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
"""What can be varied, and the usual values: about a third apart, since what differs by less cannot be told apart."""
WORKERS = "WORKERS"
"""The one that is no setting of the worker, but how many of them there are."""
DEFAULTS: dict[str, str] = {
    "POOL_MIN_SIZE": "10", "POOL_MAX_SIZE": "10", "POOL_MAX_INACTIVE_TIME": "300",
    "MAX_JOBS": "10", "POLL_DELAY": "0.5", "BATCH_LIMIT": "1",
}  # fmt: skip
"""The settings that a worker has where nobody sets any: those of `asyncpg.create_pool` and of arq's Worker.

Neither knows batches, so a job is a transaction.
"""

Kind = Literal["value", "control", "defaults"]


@dataclass(frozen=True, slots=True)
class Plan:
    """All that a run depends on."""

    setting: str
    """What is varied: one of `LADDERS`."""
    values: tuple[int, ...]
    repeats: int
    seconds: float
    in_flight: int
    think_ms: float
    mix: dict[str, int]
    """Shares of the functions among the jobs."""
    usual: dict[str, str]
    """What `LADDERS` names, as it is where it is not varied."""
    seed: int

    @classmethod
    def read(cls, document: dict[str, Any]) -> Self:
        """Return the plan that `asdict` made a document of."""
        fields: dict[str, Any] = {**document, "values": tuple(document["values"])}
        return cls(**fields)

    @property
    def control(self) -> int:
        """The value that is nearest to the usual one."""
        usual = float(self.usual[self.setting])
        return min(self.values, key=lambda value: (abs(value - usual), value))

    def variables(self, trial: "Trial") -> dict[str, str]:
        """Return the settings of an arm's workers."""
        if trial.kind == "defaults":
            return DEFAULTS
        varied = {**self.usual, self.setting: str(trial.value)}
        if self.setting == "POOL_MAX_SIZE":
            varied["POOL_MIN_SIZE"] = str(min(int(self.usual["POOL_MIN_SIZE"]), trial.value))
        return {name: value for name, value in varied.items() if name != WORKERS}

    def workers(self, trial: "Trial") -> int:
        """Return how many workers an arm has."""
        return trial.value if self.setting == WORKERS and trial.kind != "defaults" else int(self.usual[WORKERS])

    @property
    def connections(self) -> int:
        """The connections that the largest arm asks for."""
        return max(self.workers(trial) * (int(self.variables(trial)["POOL_MAX_SIZE"]) + 1) for trial in trials(self))


@dataclass(frozen=True, slots=True)
class Trial:
    """One arm to be measured.

    A control is there to see whether the machine is still what it was; the defaults, whose *value* is 0, to tell what
    the best value is worth.
    """

    number: int
    round: int
    value: int
    kind: Kind


def trials(plan: Plan) -> list[Trial]:
    """Return all of them in order: a control, the values and the defaults shuffled, and so on.

    The same plan gives the same order.
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
    """Return what `LADDERS` names as it is set now, beside so many workers and *others* that are asked for."""
    set_now = {name: str(getattr(settings, name.lower())) for name in LADDERS if name != WORKERS}
    return {**set_now, **others, WORKERS: str(workers)}
