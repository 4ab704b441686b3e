"""Lists in documents that have to be complete: the events of the log, and the settings."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from documents import FENCE, PAGES

from settings import Settings, load
from tidepool import logs

ROOT = Path(__file__).parents[2]
EVENT = re.compile(r"[a-z]+\.[a-z_]+")
LEVELS = {"info": "info", "warning": "warning", "error": "error", "exception": "error"}
MIB = 1_048_576


def literals(node: ast.AST) -> list[str]:
    """Return the events among the literals under *node*."""
    constants = [one.value for one in ast.walk(node) if isinstance(one, ast.Constant)]
    return [one for one in constants if isinstance(one, str) and EVENT.fullmatch(one)]


def logged(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Yield event and level of each call that logs; an event in a variable is what the module assigns to it."""
    assigned = defaultdict[str, list[str]](list)
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            assigned[node.targets[0].id] += literals(node.value)
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and node.args):
            continue
        called, event = node.func, node.args[0]
        if isinstance(called, ast.Name) and called.id == "Oddities":
            yield from ((one, "warning") for one in literals(event))
        elif isinstance(called, ast.Attribute) and called.attr in LEVELS:
            found = assigned[event.id] if isinstance(event, ast.Name) else literals(event)
            yield from ((one, LEVELS[called.attr]) for one in found)


def test_the_table_of_events_is_that_of_the_code() -> None:
    """Each event, with each level that it is logged at."""
    in_code = {("log.dropped", "warning")}  # which is made without a logger
    for path in ROOT.glob("*/**/*.py"):
        if path.relative_to(ROOT).parts[0] not in ("tidepool", "worker", "producer", "lab"):
            continue
        in_code |= set(logged(ast.parse(path.read_text("utf-8"))))
    in_table = set[tuple[str, str]]()
    for names, levels in re.findall(r"^\| (`.+?`) \| ([a-z, ]+) \|", logs.__doc__ or "", re.MULTILINE):
        events = re.findall(r"`([^`]+)`", names)
        both = levels.split(", ")
        pairs = events[0].endswith(".unavailable")  # the first of the two is a warning, the second is not
        in_table |= set(zip(events, both, strict=True)) if pairs else {(one, level) for one in events for level in both}
    assert in_code == in_table


@pytest.mark.parametrize("name", Settings.model_fields)
def test_the_readme_names_each_setting(name: str) -> None:
    """If its table gives a number as the default, that is the default."""
    section = (ROOT / "README.md").read_text("utf-8").partition("\n## Settings\n")[2].partition("\n## ")[0]
    assert re.search(rf"\b{name.upper()}\b", section)
    shown = re.search(rf"`{name.upper()}` \((none|\d+(?: MiB)?)(?=[ );:,])", section)
    if shown:
        number, _, unit = shown[1].partition(" ")
        assert (str(int(number) * MIB) if unit else number) == default_of(name)


@pytest.mark.parametrize("name", Settings.model_fields)
def test_a_description_ends_with_the_default(name: str) -> None:
    """If it gives one as a number; thousands have commas there."""
    source = "".join((ROOT / path).read_text("utf-8") for path in ("settings.py", "tidepool/settings.py"))
    description = re.search(rf'^    {name}: .*?"""(.+?)"""', source, re.MULTILINE | re.DOTALL)
    assert description
    shown = re.search(r"Default ([\d,.]*\d)", description[1])
    if shown:
        assert shown[1].replace(",", "") == default_of(name)


def default_of(name: str) -> str:
    """Return a default as the documents write it."""
    value: Any = getattr(load({}), name)
    if value is None or value in ((), {}):
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_of_the_repository(page: str) -> None:
    """Links to headings, too: a heading that is renamed breaks the links to it."""
    text = FENCE.sub("", (ROOT / page).read_text("utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (ROOT / page).parent / path if path else ROOT / page
        assert there.exists(), f"{page}: {target}"
        if anchor:
            assert anchor in anchors(there), f"{page}: {target}"


def anchors(page: Path) -> set[str]:
    """Return the names that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
