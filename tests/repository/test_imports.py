"""Which part may import which: the walls of the design, checked on the imports themselves."""

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.house import cycles, imports_between

ROOT = Path(__file__).parents[2]
PACKAGES = ("tidepool", "worker", "producer", "lab")
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in [ROOT / "settings.py", *(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))]
}
EXAMPLES = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in (ROOT / "examples").rglob("*.py")}
"""Applications that somebody else could have written."""
MAY_TOUCH_ENVIRON = {"tidepool.adopted_settings", "tidepool.settings", "tidepool.embedded.server"}
"""`embedded` reads no setting from it: it hands it on to PostgreSQL's programs, without what they would obey."""

FORBIDDEN: dict[str, tuple[str, ...]] = {
    "tidepool": ("worker", "producer", "settings", "lab"),
    "worker": ("producer", "lab", "asyncpg", "redis", "arq"),
    "producer": ("lab", "asyncpg"),
    "settings": ("worker", "producer", "lab"),
    "examples": ("worker", "producer", "settings", "lab", "tests"),
    "tidepool.jobs": ("asyncpg", "redis", "arq", "tidepool.settings", "tidepool.storage", "tidepool.engine"),
    "tidepool.queue": ("asyncpg", "tidepool.engine", "tidepool.ledger", "tidepool.storage", "tidepool.settings"),
    "tidepool.engine": ("asyncpg", "tidepool.pool", "tidepool.storage", "tidepool.health", "tidepool.settings"),
    "tidepool.ledger": ("asyncpg", "redis", "arq", "tidepool.engine", "tidepool.settings"),
    "tidepool.pool": ("redis", "arq", "tidepool.jobs", "tidepool.settings", "tidepool.storage"),
    "tidepool.storage": ("redis", "arq", "tidepool.engine", "tidepool.health", "tidepool.queue", "tidepool.settings"),
    "tidepool.health": ("redis", "arq", "asyncpg", "tidepool.engine", "tidepool.settings"),
    "tidepool.advice": ("redis", "arq", "asyncpg", "tidepool.engine", "tidepool.queue", "tidepool.settings"),
    "tidepool.fleet": ("asyncpg", "arq", "tidepool.settings", "tidepool.health"),
    "tidepool.urls": ("asyncpg", "redis", "tidepool.settings"),
    "producer.workload": ("redis", "arq", "settings"),
    "producer.commands_file": ("redis", "arq", "settings"),
    "producer.report": ("redis", "arq", "settings"),
}
"""A package, and what neither it nor anything below it imports."""
MAY_KNOW = {
    "asyncpg": ("tidepool.pool", "tidepool.storage", "lab"),
    "arq": ("tidepool.queue", "tidepool.engine", "lab"),
    "redis": ("tidepool.queue", "tidepool.embedded.redis", "lab"),
    "sqlalchemy": ("tidepool.alembic", "tidepool.sqlalchemy"),
    "psycopg": ("tidepool.psycopg",),
}
"""A driver, and who may import it. `embedded.redis` asks a server that it starts whether it serves. SQLAlchemy and
psycopg are there only where an application has them: what needs them is imported when it is used."""
PUBLIC = ("tidepool", "tidepool.alembic", "tidepool.cli", "tidepool.sqlalchemy", "tidepool.testing", "tidepool.web")
"""The library's packages that an application may import, and of those only what `__all__` names."""
APPLICATIONS = ("worker", "producer", "settings", "examples")
"""What uses the library as any application does."""


def imports_of(path: Path) -> Iterator[str]:
    """Yield the full names that *path* imports, those for types only included; `a.b.c` for `from a.b import c`."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: imports are absolute here"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_in(name: str, package: str) -> bool:
    """Return whether *name* is *package* or below it."""
    return name == package or name.startswith(f"{package}.")


def crossings(modules: dict[str, Path]) -> list[str]:
    """Return each import that FORBIDDEN forbids, as `importer → imported`."""
    return [
        f"{module} → {name}"
        for module, path in modules.items()
        for name in imports_of(path)
        if any(
            is_in(module, package) and is_in(name, forbidden)
            for package, forbidden_ones in FORBIDDEN.items()
            for forbidden in forbidden_ones
        )
    ]


def public_names(package: str) -> set[str]:
    """Return what `__all__` of a package of the library names; nothing if it has none."""
    if package not in MODULES:
        return set()
    for node in ast.parse(MODULES[package].read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and "__all__" in map(ast.unparse, node.targets):
            return set(ast.literal_eval(node.value))
    return set()


def private_uses(modules: dict[str, Path]) -> list[str]:
    """Return each import of something of the library that is not public, as `importer → imported`."""
    public = {f"{package}.{name}" for package in PUBLIC for name in public_names(package)}
    return [
        f"{module} → {name}"
        for module, path in modules.items()
        if any(is_in(module, application) for application in APPLICATIONS)
        for name in imports_of(path)
        if is_in(name, "tidepool") and name not in public
    ]


def edges() -> dict[str, set[str]]:
    """Return for each module which others of ours it imports."""
    return imports_between({module: ast.parse(path.read_text("utf-8")) for module, path in MODULES.items()})


def room_of(module: str) -> str:
    """Return the folder of a module of the library, or its package."""
    return ".".join(module.split(".")[:2]) if is_in(module, "tidepool") else module.split(".", maxsplit=1)[0]


def test_the_walk_sees_something() -> None:
    """An empty list of crossings would mean nothing otherwise."""
    assert {"settings", "worker", "tidepool.ledger.ledger", "tidepool.pool.pool", "lab.bench"} <= set(MODULES)
    assert {"examples.shop.shop.tasks", "examples.shop.tests.conftest"} <= set(EXAMPLES)
    assert "tidepool.pool.pool.Pool" in set(imports_of(MODULES["tidepool.ledger.ledger"]))


def test_no_wall_is_crossed() -> None:
    """Each crossing is named: who imports what it may not know."""
    assert [] == crossings(MODULES | EXAMPLES)


@pytest.mark.parametrize("package", FORBIDDEN)
def test_a_planted_crossing_is_found(package: str, tmp_path: Path) -> None:
    """Each kind of import is found, also one that is for types only."""
    for forbidden in FORBIDDEN[package]:
        planted = tmp_path / "planted.py"
        planted.write_text(f"if TYPE_CHECKING:\n    from {forbidden} import anything\n", "utf-8")
        assert [f"{package}.planted → {forbidden}.anything"] == crossings({f"{package}.planted": planted})


def test_an_application_uses_public_names_only() -> None:
    """Each other use is named: what the service needs, any application may need."""
    assert [] == private_uses(MODULES | EXAMPLES)


@pytest.mark.parametrize(
    "line",
    [
        *("from tidepool.client import JobClient", "from tidepool import servers", "import tidepool.pool.pool"),
        *("import tidepool", "from tidepool.web import feed", "from tidepool import *"),
    ],
)
@pytest.mark.parametrize("application", APPLICATIONS)
def test_a_planted_private_use_is_found(application: str, line: str, tmp_path: Path) -> None:
    """A module of the library, a name that is not public, and a package as a whole, of which anything could be used."""
    planted = tmp_path / "planted.py"
    planted.write_text(f"if TYPE_CHECKING:\n    {line}\nfrom tidepool import App\n", "utf-8")
    assert 1 == len(private_uses({f"{application}.planted": planted}))


@pytest.mark.parametrize("package", [package for package in PUBLIC if public_names(package)])
def test_every_public_name_can_be_imported(package: str) -> None:
    """It is the same object that the imports for type checkers name."""
    module = importlib.import_module(package)
    for node in ast.walk(ast.parse(MODULES[package].read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and is_in(node.module or "", "tidepool"):
            for alias in node.names:
                name = alias.asname or alias.name
                if name in public_names(package):
                    assert getattr(module, name) is getattr(importlib.import_module(node.module or ""), alias.name)
    assert set() == {name for name in public_names(package) if not hasattr(module, name)}


def test_importing_the_library_imports_nothing_large() -> None:
    """What serves HTTP and what prints tables is imported by those who use it."""
    large = "{'fastapi', 'uvicorn', 'rich', 'arq', 'redis', 'asyncpg', 'pydantic'}"
    code = f"import sys, tidepool; sys.exit(', '.join({large} & set(sys.modules)) or 0)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize("driver", MAY_KNOW)
def test_only_some_rooms_know_a_driver(driver: str) -> None:
    """Its types and errors stay in there. Nobody is listed who does not import it."""
    known_by = {module for module, path in MODULES.items() if any(is_in(name, driver) for name in imports_of(path))}
    assert set() == {one for one in known_by if not any(is_in(one, package) for package in MAY_KNOW[driver])}
    assert set() == {package for package in MAY_KNOW[driver] if not any(is_in(one, package) for one in known_by)}


def test_nothing_imports_what_needs_sqlalchemy() -> None:
    """It is imported by the applications that have it."""
    assert [] == [module for module, targets in edges().items() if "tidepool.alembic" in targets]


def test_no_modules_import_each_other() -> None:
    """Imports for types only count."""
    assert set() == cycles(edges())


def test_no_rooms_import_each_other() -> None:
    """The library's folders can be read from the bottom to the top."""
    graph: dict[str, set[str]] = {}
    for module, targets in edges().items():
        graph.setdefault(room_of(module), set()).update({room_of(one) for one in targets} - {room_of(module)})
    assert set() == cycles(graph)


def test_a_planted_cycle_is_found() -> None:
    """Over any number of steps."""
    assert {frozenset("abc")} == cycles({"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set()})


def test_only_the_settings_touch_the_environment() -> None:
    """Every variable is declared, checked and documented in one place."""
    words = ("environ", "environb", "getenv", "putenv")
    touching = {
        module
        for module, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if (isinstance(node, ast.Attribute) and node.attr in words) or (isinstance(node, ast.Name) and node.id in words)
    }
    assert touching <= MAY_TOUCH_ENVIRON


def test_every_module_says_what_it_is() -> None:
    """A docstring at the top of each file."""
    assert [] == [
        module for module, path in MODULES.items() if not ast.get_docstring(ast.parse(path.read_text("utf-8")))
    ]


def test_no_room_of_the_library_imports_its_web_or_its_command_line() -> None:
    """They stand above all of it, and are imported by applications; the command `serve` runs the web application."""
    uppermost = ("tidepool.web", "tidepool.cli")
    allowed = {("tidepool.cli", "tidepool.web")}
    assert [] == [
        f"{module} → {name}"
        for module, path in MODULES.items()
        for name in imports_of(path)
        for room in uppermost
        if is_in(module, "tidepool") and is_in(name, room) and not is_in(module, room) and module != "tidepool.__main__"
        if (room_of(module), room) not in allowed
    ]
