"""Programs of a test's own: for what a test does to its process that would last, such as patches."""

import subprocess
import sys
from textwrap import dedent


def ended(*parts: str) -> subprocess.CompletedProcess[str]:
    """Run a program of these parts, each indented as it likes, and check that it ends with status 0."""
    program = "".join(f"{dedent(part)}\n" for part in parts)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert 0 == done.returncode, done.stderr
    return done


def run(*parts: str) -> list[str]:
    """Run a program of these parts; return the words that it prints."""
    return ended(*parts).stdout.split()
