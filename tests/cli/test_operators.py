"""The command `tidepool`: for any application, and without one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = (sys.executable, "-c", "from tidepool.cli import main; main()")


def run(*words: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run `tidepool` outside of the checkout, with the library on the path."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **variables}
    return subprocess.run((*COMMAND, *words), check=False, cwd=cwd, env=environment, capture_output=True, text=True)


def test_help_stands_alone(tmp_path: Path) -> None:
    """Without an application and without servers: every command, and how an application is named."""
    ended = run("--help", cwd=tmp_path)
    assert 0 == ended.returncode
    assert all(word in ended.stdout for word in ("usage: tidepool", "results", "migrate", "--app", "TIDEPOOL_APP"))


@pytest.mark.parametrize(
    ("words", "variables"),
    [
        (("--app", "shop:app", "urls"), {}),
        (("urls", "--app", "shop:app"), {}),
        (("urls",), {"TIDEPOOL_APP": "shop:app"}),
        (("work", "--app", "shop:app", "--workers", "2"), {"TIDEPOOL_APP": "nowhere:app"}),
    ],
)
def test_an_application_brings_its_settings(tmp_path: Path, words: tuple[str, ...], variables: dict[str, str]) -> None:
    """It is found in the working directory, by the option before or after the command, or by the variable."""
    shop = """
from tidepool import App, Settings

class ShopSettings(Settings):
    price_list: str

app = App(settings=ShopSettings)
"""
    (tmp_path / "shop.py").write_text(shop, "utf-8")
    ended = run(*words, cwd=tmp_path, **variables)
    assert (2, "PRICE_LIST: field required\n") == (ended.returncode, ended.stderr)


def test_an_application_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    """With status 2."""
    ended = run("--app", "nowhere:app", "urls", cwd=tmp_path)
    assert 2 == ended.returncode
    assert "tidepool: error: --app: no module is called 'nowhere'\n" in ended.stderr


def test_without_an_application_there_is_nothing_to_run(tmp_path: Path) -> None:
    """The embedded servers are there, and are stopped again."""
    ended = run("work", cwd=tmp_path)
    line = "error: there is no application to run: name it with --app or TIDEPOOL_APP"
    assert (2, line) == (ended.returncode, ended.stderr.splitlines()[-1])
