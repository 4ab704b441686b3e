"""What atheris runs: any bytes as a payload, as a commands file, and as the choices that build a nearly valid job.

Started by `tests/fuzz/run`. Each raises where the decoding does not keep its promises: see `decoding`.
"""

import json
import logging
import sys
from typing import Any

import atheris

with atheris.instrument_imports(include=["decoding", "producer", "tidepool", "worker"]):
    from decoding import ENVELOPE, checked

    from producer.commands_file import CommandReader
    from worker.jobs import JOBS

FUNCTIONS = [job_type.name for job_type in JOBS]
FIELDS = sorted({name for job_type in JOBS for name in job_type.command.model_fields})
WORDS = ["ada", "a@b", "12.50", "-0", "NaN", "1e20", "\x00", "\\u0000", "😀", "\ud800", ""]
NUMBERS = [0, 1, -1, 2**31 - 1, 2**31, 2**63, 10**30, 1.5, float("inf"), float("nan"), True, None]


def one_input(data: bytes) -> None:
    """Use *data* in all three ways."""
    checked(data)
    lines = [line for line in data.split(b"\n") if line.rstrip()]
    assert len(list(CommandReader.of_lines(lines, source="-"))) <= len(lines)
    checked(nearly_valid(atheris.FuzzedDataProvider(data)))


def nearly_valid(choices: Any) -> bytes:
    """Return a job with fields that there are, and values of any kind."""
    function = choices.PickValueInList(FUNCTIONS)
    content = {choices.PickValueInList(FIELDS): value(choices) for _ in range(choices.ConsumeIntInRange(0, 7))}
    return json.dumps({**ENVELOPE, "f": function, "k": content}, ensure_ascii=choices.ConsumeBool()).encode(
        "utf-8", "surrogatepass"
    )


def value(choices: Any, depth: int = 0) -> Any:
    """Return a value: words and numbers that mean something, any text or number, or lists and objects of them."""
    kind = choices.ConsumeIntInRange(0, 6 if depth < 3 else 4)
    if kind == 0:
        return choices.PickValueInList(WORDS)
    if kind == 1:
        return choices.PickValueInList(NUMBERS)
    if kind == 2:
        return choices.ConsumeUnicode(choices.ConsumeIntInRange(0, 60))
    if kind == 3:
        return choices.ConsumeInt(9)
    if kind == 4:
        return choices.ConsumeFloat()
    inner = [value(choices, depth + 1) for _ in range(choices.ConsumeIntInRange(0, 3))]
    return inner if kind == 5 else {choices.PickValueInList(WORDS): each for each in inner}


logging.disable()
atheris.Setup(sys.argv, one_input)
atheris.Fuzz()
