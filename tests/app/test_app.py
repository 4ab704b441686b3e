"""An application is found by its place: a module and a name in it."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from programs import run

import worker
from tidepool import App, app_on_demand

MODULE = "an_application_for_tests"


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give the file of a module that can be imported."""
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / f"{MODULE}.py"
    sys.modules.pop(MODULE, None)


def test_the_service_is_an_application() -> None:
    """By either of its places it is the same one."""
    assert isinstance(worker.app, App)
    assert worker.app is App.load("worker:app") is App.load("worker.service:app")


@pytest.mark.parametrize("place", ["", "worker", "worker:", ":app", "worker:app:app", "worker:a-b"])
def test_a_place_of_another_form_is_refused(place: str) -> None:
    """With what it should be."""
    with pytest.raises(ValueError, match=r"is not of the form package\.module:attribute$"):
        App.load(place)


def test_a_module_that_is_not_there_is_named() -> None:
    """The error also names a module that is missing in a package that exists."""
    for place in ("no_such_module", "worker.no_such_module"):
        with pytest.raises(ValueError, match=f"^no module is called '{place}'$"):
            App.load(f"{place}:app")


def test_what_is_no_application_is_refused(module: Path) -> None:
    """A name that the module does not have is refused, too."""
    module.write_text("app = 7\n", "utf-8")
    for name in ("app", "other"):
        with pytest.raises(ValueError, match=r"is neither a tidepool\.App nor arq settings"):
            App.load(f"{MODULE}:{name}")


def test_an_error_of_the_applications_own_goes_through(module: Path) -> None:
    """Such as a package that it needs and that is not installed."""
    module.write_text("import no_such_package\n", "utf-8")
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        App.load(f"{MODULE}:app")


def test_a_package_without_such_a_name_says_so() -> None:
    """As any module does."""
    attribute = app_on_demand("shop", "shop.application:app")
    with pytest.raises(AttributeError, match=r"^module 'shop' has no attribute 'other'$"):
        attribute("other")


@pytest.mark.parametrize(("program", "is_tuned"), [("arq", True), ("gunicorn", False)])
def test_only_the_arq_command_gets_uvloop_and_another_garbage_collection(program: str, *, is_tuned: bool) -> None:
    """Another program that imports the settings, to run the worker beside its own work, keeps what it has set."""
    words = run(f"""
    import asyncio, gc, sys
    sys.argv[0] = "/usr/bin/{program}"
    before = gc.get_threshold()
    from worker import WorkerSettings
    is_uvloop = "uvloop" in type(asyncio.get_event_loop_policy()).__module__
    print(is_uvloop, gc.get_threshold() != before, gc.get_freeze_count() > 0)
    """)
    assert [str(is_tuned)] * 3 == words
