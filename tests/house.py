"""The house in figures: `uv run python -m tests.house [ROOT]`.

Prints, for each package of a checkout (default: this one), its lines, modules, public top-level functions and classes,
uses of `Any`, and its longest function; then the public names of tidepool, worker and producer together, the import
cycles, the imports between modules and between folders, and how often the tests read a private attribute of an object.
Only Python is counted. Exit status 2: ROOT is not a checkout.
"""

import argparse
import ast
import sys
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path(__file__).parents[1]
_PRODUCT = ("tidepool", "worker", "producer")
_PACKAGES = (*_PRODUCT, "lab")
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def main() -> None:
    """Print the figures of the checkout that the command line names."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.house", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "root", nargs="?", type=Path, default=_ROOT, metavar="ROOT", help="directory of a checkout (default: this one)"
    )
    root = parser.parse_args().root
    if missing := [package for package in _PACKAGES if not (root / package).is_dir()]:
        print(f"{root} is not a checkout of tidepool: it has no {', '.join(missing)}", file=sys.stderr)
        sys.exit(2)
    modules = {path: ast.parse(path.read_text("utf-8")) for package in _PACKAGES for path in _files(root / package)}
    print(f"{'package':10} {'lines':>7} {'modules':>8} {'public':>7} {'Any':>5}  longest function")
    names: dict[str, int] = {}
    for package in _PACKAGES:
        mine = {path: tree for path, tree in modules.items() if path.is_relative_to(root / package)}
        lines = sum(len(path.read_text("utf-8").splitlines()) for path in mine)
        names[package] = public = sum(_is_public(node) for tree in mine.values() for node in tree.body)
        untyped = sum(
            isinstance(node, ast.Name) and node.id == "Any" for tree in mine.values() for node in ast.walk(tree)
        )
        longest = max(((_length(node), node.name) for tree in mine.values() for node in _functions(tree)), default="")
        print(f"{package:10} {lines:7,} {len(mine):8} {public:7} {untyped:5}  {longest}")
    print(f"public names of {', '.join(_PRODUCT)}: {sum(names[package] for package in _PRODUCT)}")
    graph = imports_between({_name(root, path): tree for path, tree in modules.items()})
    folders = {
        (_folder(one), _folder(other)) for one in graph for other in graph[one] if _folder(one) != _folder(other)
    }
    print(f"imports between modules {sum(map(len, graph.values()))}, arrows between folders {len(folders)}")
    print(f"import cycles {[sorted(cycle) for cycle in cycles(graph)]}")
    reads = sum(
        _is_private_read(node) for path in _files(root / "tests") for node in ast.walk(ast.parse(path.read_text()))
    )
    print(f"private attributes that tests read {reads}")


def _files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py"))


def _is_public(node: ast.stmt) -> bool:
    return isinstance(node, (*_FUNCTIONS, ast.ClassDef)) and not node.name.startswith("_")


def _functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, _FUNCTIONS))


def _length(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the lines of a function's body, its docstring included."""
    return (node.end_lineno or 0) - node.body[0].lineno + 1


def _name(root: Path, path: Path) -> str:
    return ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


def _folder(module: str) -> str:
    return ".".join(module.split(".")[:2])


def imports_between(modules: dict[str, ast.Module]) -> dict[str, set[str]]:
    """Return which other modules of the checkout each one imports, imports for types included."""

    def module_of(name: str) -> str:
        while name and name not in modules:
            name = name.rpartition(".")[0]
        return name

    graph: dict[str, set[str]] = {}
    for module, tree in modules.items():
        names: list[str] = []
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names += [f"{node.module}.{alias.name}" for alias in node.names]
        graph[module] = {target for name in names if (target := module_of(name)) and target != module}
    return graph


def cycles(graph: dict[str, set[str]]) -> set[frozenset[str]]:
    """Return the groups of modules that import each other, directly or not."""

    def reachable(start: str) -> set[str]:
        seen, waiting = set[str](), [start]
        while waiting:
            found = graph.get(waiting.pop(), set()) - seen
            seen |= found
            waiting += found
        return seen

    reach = {module: reachable(module) for module in graph}
    return {frozenset(other for other in reach[one] if one in reach[other]) for one in graph} - {frozenset()}


def _is_private_read(node: ast.AST) -> bool:
    """Return whether *node* is `something._name`, but not `self._name`."""
    return (
        isinstance(node, ast.Attribute)
        and node.attr.startswith("_")
        and not node.attr.startswith("__")
        and not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"))
    )


if __name__ == "__main__":
    main()
