"""One mutation: where it belongs, found by the names of things, so that a moved file or line does not break its row."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import zip_longest
from pathlib import Path

ROOT = Path(__file__).parents[2]
_PRODUCT = ("tidepool/**/*.*", "worker/**/*.*", "producer/**/*.*", "lab/**/*.*", "settings.py")


@dataclass(frozen=True)
class Place:
    """A part of a file: a function, a class, an assignment, a named query, or all of it."""

    path: Path
    name: str
    begin: int
    end: int


@dataclass(frozen=True)
class Mutation:
    """A fault that one test must notice.

    *what* describes the fault. *where* names a Python function, method, class or constant (`Ledger._write`), a file
    (`claim.lua`), or a query in a file (`results.sql:write`); a name that occurs in several modules has its module or
    folder in front (`batcher:Batcher.close`). *old* must occur there exactly once, and becomes *new*. White space in
    *old* matches any white space, and *new* is indented as the line is in which *old* begins. *test* names the test
    that must fail: a function with or without the id of its parameters, or a file.
    """

    what: str
    where: str
    old: str
    new: str
    test: str

    @property
    def path(self) -> Path:
        """The file that the fault goes into. Raises `ValueError` unless *where* is exactly one place."""
        return self._place().path

    @property
    def test_id(self) -> str:
        """What pytest calls the test. Raises `ValueError` unless exactly one file has it."""
        name, bracket, parameters = self.test.partition("[")
        files = _test_files().get(name, ())
        if len(files) != 1:
            raise ValueError(f"{name!r} is the name of {len(files)} tests")
        path = files[0].relative_to(ROOT).as_posix()
        if name.endswith(".py"):
            return path
        around = re.split(rf"^( *)(?:async )?def {name}\b", files[0].read_text("utf-8"), maxsplit=1, flags=re.MULTILINE)
        classes = re.findall(r"^class (\w+)", around[0], re.MULTILINE) if around[1] else []
        return "::".join([path, *classes[-1:], f"{name}{bracket}{parameters}"])

    def faulty_text(self) -> str:
        """Return the file's text with the fault in it. Raises `ValueError` unless *old* is found once in *where*."""
        place = self._place()
        text = place.path.read_text("utf-8")
        found = list(self._pattern().finditer(text, place.begin, place.end))
        if len(found) != 1:
            raise ValueError(f"{self.where} has {len(found)} times {self.old!r}{self._elsewhere()}")
        begin, end = found[0].span()
        line = text[text.rfind("\n", 0, begin) + 1 : begin]
        indent = line[: len(line) - len(line.lstrip())]
        return text[:begin] + self.new.replace("\n", f"\n{indent}") + text[end:]

    def _place(self) -> Place:
        module, colon, name = self.where.rpartition(":")
        is_query = module.endswith(".sql")
        found = [
            place
            for place in _places().get(self.where if is_query else name, ())
            if is_query or not colon or module in (place.path.stem, place.path.parent.name)
        ]
        if len(found) != 1:
            raise ValueError(f"{self.where!r} is the name of {len(found)} places{self._elsewhere()}")
        return found[0]

    def _pattern(self) -> re.Pattern[str]:
        return re.compile(r"\s+".join(re.escape(word) for word in self.old.split()))

    def _elsewhere(self) -> str:
        """Return the innermost places that do have *old*: where it may have gone."""
        pattern, found = self._pattern(), dict[Path, Place]()
        for place in (place for places in _places().values() for place in places):
            known = found.get(place.path)
            if (known is None or place.end - place.begin < known.end - known.begin) and pattern.search(
                place.path.read_text("utf-8"), place.begin, place.end
            ):
                found[place.path] = place
        names = (f"{place.path.relative_to(ROOT)}: {place.name}" for place in found.values())
        return f"; it stands in {', '.join(names)}" if found else "; it stands nowhere"


@cache
def _places() -> dict[str, list[Place]]:
    """Return all places of the product by name."""
    places: defaultdict[str, list[Place]] = defaultdict(list)
    for pattern in _PRODUCT:
        for path in sorted(ROOT.glob(pattern)):
            for place in _places_of(path):
                places[place.name].append(place)
    return dict(places)


def _places_of(path: Path) -> Iterator[Place]:
    """Yield the places of one file."""
    if path.suffix not in (".py", ".lua", ".sql"):
        return
    text = path.read_text("utf-8")
    yield Place(path, path.name, 0, len(text))
    if path.suffix == ".sql":
        names = list(re.finditer(r"^-- name: (\w+)", text, re.MULTILINE))
        for name, following in zip_longest(names, names[1:]):
            yield Place(path, f"{path.name}:{name[1]}", name.start(), following.start() if following else len(text))
    elif path.suffix == ".py":
        starts = [0, *(found.end() for found in re.finditer("\n|$", text))]
        for name, first, last in _symbols(ast.parse(text).body, ""):
            yield Place(path, name, starts[first - 1], starts[last])


def _symbols(body: list[ast.stmt], prefix: str) -> Iterator[tuple[str, int, int]]:
    """Yield name, first line and last line of every function, class and assignment in *body* and below."""
    for node in body:
        last = node.end_lineno or node.lineno
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                name = f"{prefix}{node.name}"
                yield name, min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)]), last
                yield from _symbols(node.body, f"{name}.")
            case ast.Assign(targets=[ast.Name(id=target)]) | ast.AnnAssign(target=ast.Name(id=target)):
                yield f"{prefix}{target}", node.lineno, last
            case _:
                pass


@cache
def _test_files() -> dict[str, list[Path]]:
    """Return the files of each test function, and of each file's own name."""
    files: defaultdict[str, list[Path]] = defaultdict(list)
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        files[path.name].append(path)
        for name in dict.fromkeys(re.findall(r"^ *(?:async )?def (test_\w+)", path.read_text("utf-8"), re.MULTILINE)):
            files[name].append(path)
    return dict(files)
