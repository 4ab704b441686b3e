"""One name, one class: a search for a class finds one definition."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
MODULES = [
    ROOT / "settings.py",
    *(p for name in ("tidepool", "worker", "producer", "lab") for p in ROOT.glob(f"{name}/**/*.py")),
]
MAY_OCCUR_TWICE = {"Settings"}
"""The service's settings extend the library's, under the same name."""


def test_no_two_classes_have_one_name() -> None:
    """Type aliases count as classes, because a reader searches for them in the same way."""
    places: defaultdict[str, list[str]] = defaultdict(list)
    for path in MODULES:
        for name in types_of(ast.parse(path.read_text("utf-8"))):
            places[name].append(str(path.relative_to(ROOT)))
    repeated = {name: found for name, found in places.items() if len(found) > 1}
    assert MAY_OCCUR_TWICE == set(repeated), repeated


def types_of(module: ast.Module) -> Iterator[str]:
    """Yield the names of the classes, and those of type aliases: assignments to a name like that of a class."""
    yield from (node.name for node in ast.walk(module) if isinstance(node, ast.ClassDef))
    assigned = (node.targets[0] for node in module.body if isinstance(node, ast.Assign))
    annotated = (node.target for node in module.body if isinstance(node, ast.AnnAssign))
    names = (target.id for target in (*assigned, *annotated) if isinstance(target, ast.Name))
    yield from (name for name in names if re.match("_?[A-Z][A-Z0-9]*[a-z]", name))
