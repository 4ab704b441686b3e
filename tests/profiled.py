"""`python -m tests.profiled FOLDER MODULE [ARGUMENT …]`: runs a module as a program, and counts the calls of our code.

When the process ends, and each time it gets SIGUSR1, it writes what it has counted since the last time to FOLDER, as
0.json, 1.json and so on: `calls` has the number of calls of each function, in the order of the first ones;
`before_commit` has the functions that had been called when the ledger's first COMMIT was sent.
"""

import atexit
import itertools
import json
import os
import runpy
import signal
import sys
import threading
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).parents[1]
OURS = ("tidepool", "worker", "producer")
_PREFIXES = tuple(f"{ROOT / package}{os.sep}" for package in OURS)
_LEDGER = f"tidepool{os.sep}ledger{os.sep}"


class CallCounts:
    """Counts calls, as a profile function of every thread of this process."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = itertools.count()
        self._calls: dict[str, int] = {}
        self._before_commit: list[str] | None = None

    def start(self) -> None:
        """Count from now on, and write at each SIGUSR1 and at the end of the process."""
        signal.signal(signal.SIGUSR1, lambda _number, _frame: self.write())
        atexit.register(self.write)
        threading.setprofile(self._profile)
        sys.setprofile(self._profile)

    def write(self) -> None:
        """Write what was counted since the last time, and begin anew. The file appears when it is complete."""
        text = json.dumps({"calls": self._calls, "before_commit": self._before_commit or []})
        self._calls, self._before_commit = {}, None
        path = self._folder / f"{next(self._numbers)}.json"
        path.with_suffix(".part").write_text(text, "utf-8")
        path.with_suffix(".part").rename(path)

    def _profile(self, frame: FrameType, event: str, _argument: object) -> None:
        if event != "call":
            return
        code = frame.f_code
        if code.co_filename.startswith(_PREFIXES):
            function = f"{code.co_filename.removeprefix(f'{ROOT}{os.sep}')}:{code.co_qualname}"
            self._calls[function] = self._calls.get(function, 0) + 1
        if self._before_commit is None and code.co_name == "execute" and "COMMIT" in frame.f_locals.values():
            functions = list(self._calls)
            if any(function.startswith(_LEDGER) for function in functions):
                self._before_commit = functions


if __name__ == "__main__":
    _, output, module, *arguments = sys.argv
    sys.argv = [module, *arguments]
    CallCounts(Path(output)).start()
    runpy.run_module(module, run_name="__main__", alter_sys=True)
