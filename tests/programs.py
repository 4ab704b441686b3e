"""Programs of a test's own: for what a test does to its process that would last, such as patches."""

import subprocess
import sys
from textwrap import dedent


def run(*parts: str) -> list[str]:
    """Run a program of these parts, each indented as it likes; return the words that it prints."""
    program = "".join(map(dedent, parts))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert 0 == done.returncode, done.stderr
    return done.stdout.split()
