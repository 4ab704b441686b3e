"""What `tune` measures, in which order: every size in every round, shuffled, with the same size around each round."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

LADDER = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
"""Twelve sizes, about a third apart: what differs by less cannot be told apart anyway."""


@dataclass(frozen=True, slots=True)
class Plan:
    """All that a run depends on. *batch_limit* None is the service's own setting."""

    sizes: tuple[int, ...]
    repeats: int
    seconds: float
    workers: int
    in_flight: int
    think_ms: float
    batch_limit: int | None
    control: int
    seed: int

    @classmethod
    def read(cls, document: dict[str, Any]) -> Self:
        """Return the plan that `asdict` made a document of."""
        fields: dict[str, Any] = {**document, "sizes": tuple(document["sizes"])}
        return cls(**fields)


@dataclass(frozen=True, slots=True)
class Trial:
    """One arm to be measured. A *control* is there to see whether the machine is still what it was."""

    number: int
    round: int
    size: int
    control: bool


def trials(plan: Plan) -> list[Trial]:
    """Return all of them in order: a control, the sizes shuffled, a control, … The same plan gives the same order."""
    chance = random.Random(plan.seed)
    order: list[tuple[int, int, bool]] = [(0, plan.control, True)]
    for number in range(plan.repeats):
        sizes = list(plan.sizes)
        chance.shuffle(sizes)
        order += [(number, size, False) for size in sizes] + [(number, plan.control, True)]
    return [Trial(place, *what) for place, what in enumerate(order)]


def control_of(sizes: Sequence[int], usual: int) -> int:
    """Return the size of *sizes* that is nearest to the usual one."""
    return min(sizes, key=lambda size: (abs(size - usual), size))
