"""Runs many commands in forks of one process that has imported everything: an import costs a second, a fork nothing.

Started as a program: reads a JSON list of cases from standard input and writes a list of how they ended. A case has
`argv`, `environment`, and what is wrong with its standard streams: `closed` (descriptors), `output` and `errors`
(a file instead of one that is read back), `encoding`. One that is `fresh` is a process of its own. One that still runs
after `stop_s` seconds gets a SIGTERM, and after LONGEST_S, or LONGEST_FRESH_S if it is fresh, a SIGKILL. Those of one
`group` run one after the other.
"""

import atexit
import json
import os
import runpy
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

AT_A_TIME = 6
LONGEST_S = 30.0
LONGEST_FRESH_S = 120.0


def main() -> None:
    """Run the cases, several at a time."""
    cases = json.load(sys.stdin)
    import arq.cli  # noqa: F401, PLC0415

    import lab.__main__  # noqa: F401, PLC0415
    import producer.__main__  # noqa: F401, PLC0415
    import tidepool.lifecycle  # noqa: F401, PLC0415
    import worker.__main__  # noqa: F401, PLC0415

    with tempfile.TemporaryDirectory(prefix="tp-batch-") as directory:
        waiting = list(enumerate(cases))
        running: dict[int, tuple[int, float]] = {}
        ended: dict[int, dict[str, Any]] = {}
        while waiting or running:
            _start(waiting, running, cases, Path(directory))
            _stop_late(running, cases)
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid:
                number, _ = running.pop(pid)
                ended[number] = _result(pid, status, Path(directory) / str(number))
            else:
                time.sleep(0.01)
    json.dump([ended[number] for number in range(len(cases))], sys.stdout)


def _start(waiting: list[Any], running: dict[int, tuple[int, float]], cases: list[Any], directory: Path) -> None:
    for place in list(waiting):
        busy = {cases[number].get("group") for number, _ in running.values()} - {None}
        if len(running) < AT_A_TIME and place[1].get("group") not in busy:
            waiting.remove(place)
            number, case = place
            if (pid := os.fork()) == 0:
                _be(case, directory / str(number))
            running[pid] = (number, time.monotonic())


def _stop_late(running: dict[int, tuple[int, float]], cases: list[Any]) -> None:
    for pid, (number, begun_s) in running.items():
        runs_s = time.monotonic() - begun_s
        longest_s = LONGEST_FRESH_S if cases[number].get("fresh") else LONGEST_S
        if runs_s > longest_s:
            os.kill(pid, signal.SIGKILL)
        elif runs_s > cases[number].get("stop_s", longest_s):
            os.kill(pid, signal.SIGTERM)
            cases[number]["stop_s"] = longest_s


def _result(pid: int, status: int, path: Path) -> dict[str, Any]:
    def read(suffix: str) -> str:
        file = path.with_suffix(suffix)
        return file.read_bytes().decode("utf-8", "replace") if file.exists() else ""

    return {
        "status": os.waitstatus_to_exitcode(status),
        "stdout": read(".out"),
        "stderr": read(".err"),
        "left": _is_left(pid),
    }


def _is_left(group: int) -> bool:
    """Return whether a process of that group is left; and end it."""
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def _be(case: dict[str, Any], path: Path) -> None:
    """Become the command, from its environment and streams to its exit status."""
    status = 70
    atexit._clear()  # what is registered by now is the runner's, such as the removal of its directory
    try:
        os.setsid()
        os.environ.clear()
        os.environ.update(case["environment"])
        files = (os.devnull, case.get("output") or f"{path}.out", case.get("errors") or f"{path}.err")
        for number, file in enumerate(files):
            flags = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT
            opened = os.open(file, flags, 0o600)
            os.dup2(opened, number)
            os.close(opened)
        for number in case.get("closed", ()):
            os.close(number)
        if case.get("fresh"):
            os.environ["PYTHONIOENCODING"] = case.get("encoding", "utf-8")
            os.execv(sys.executable, [sys.executable, "-m", *case["argv"]])
        encoding = case.get("encoding", "utf-8")
        closed = case.get("closed", ())
        sys.stdin, sys.stdout, sys.stderr = (
            None if number in closed else open(number, mode, encoding=encoding, closefd=False)  # noqa: SIM115
            for number, mode in enumerate("rww")
        )
        status = _run(case["argv"])
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
    finally:
        atexit._run_exitfuncs()  # as a process that ends: the lines that wait are written
        os._exit(status)


def _run(argv: list[str]) -> int:
    sys.argv = [f"/usr/bin/{argv[0]}", *argv[1:]]
    try:
        if argv[0] == "arq":
            from arq.cli import cli  # noqa: PLC0415

            cli()
        runpy.run_module(argv[0], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        return int(end.code or 0)
    except Exception:  # noqa: BLE001
        sys.excepthook(*sys.exc_info())
        return 1


if __name__ == "__main__":
    main()
