"""Reads the CPU time and the memory of processes on this machine from /proc (proc(5))."""

import os
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")


def cpu_s(pid: int) -> float:
    """Return the CPU time that a process has used so far, in seconds: user and system time."""
    user, system = _stat(pid)[11:13]
    return (int(user) + int(system)) / _TICKS_PER_S


def family_cpu_s(pid: int) -> float:
    """Return the CPU time that a process and its children have used so far, in seconds.

    Children that have ended count, if the process has waited for them.
    """
    own = sum(int(ticks) for ticks in _stat(pid)[11:15])  # 16 and 17: the children that it has waited for
    return own / _TICKS_PER_S + sum(_cpu_s_or_none(child) for child in children(pid))


def machine_busy_s() -> float:
    """Return the CPU time that all cores of this machine have been busy since it started, in seconds.

    It includes the time that the host gave to other guests (steal).
    """
    words = (_PROC / "stat").read_text("utf-8").splitlines()[0].split()
    user, nice, system, _idle, _waiting, irq, softirq, steal = map(int, words[1:9])
    return (user + nice + system + irq + softirq + steal) / _TICKS_PER_S


def children(pid: int) -> list[int]:
    """Return the ids of the running child processes of *pid*."""
    found: list[int] = []
    for entry in _PROC.iterdir():
        if entry.name.isdecimal():
            try:
                parent = int(_stat(int(entry.name))[1])
            except OSError:  # it has just ended
                continue
            if parent == pid:
                found.append(int(entry.name))
    return found


def peak_mb(pid: int) -> float:
    """Return the peak memory (resident set size) of a process in MB; 0 if the kernel does not report it."""
    return _memory_mb(_PROC / str(pid) / "status", "VmHWM:")


def family_mb(pid: int) -> float:
    """Return the current memory of a process and its children in MB. Shared memory is counted once."""
    return sum(_memory_mb(_PROC / str(one) / "smaps_rollup", "Pss:") for one in (pid, *children(pid)))


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/*pid*/stat from the third one (the state) on."""
    return (_PROC / str(pid) / "stat").read_text("utf-8").rpartition(")")[2].split()


def _cpu_s_or_none(pid: int) -> float:
    try:
        return cpu_s(pid)
    except OSError:  # it has just ended, and is in its parent's figure the next time
        return 0.0


def _memory_mb(path: Path, name: str) -> float:
    try:
        lines = path.read_text("utf-8").splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(name)), 0.0)
