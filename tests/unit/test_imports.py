"""Which part may know which: the arrows of the design, walked through the imports."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in [
        ROOT / "settings.py",
        ROOT / "tidepool/urls.py",
        ROOT / "tidepool/libpq.py",
        *(ROOT / "worker").rglob("*.py"),
        *(ROOT / "producer").rglob("*.py"),
    ]
}
MAY_TOUCH_ENVIRON = {"settings", "tidepool.embedded.programs"}
"""`embedded` reads no setting from it: it hands it on to PostgreSQL's programs, without what they would obey."""
MAY_KNOW_ASYNCPG = ("tidepool.storage", "lab.bench", "lab.drill")
"""`bench` measures bare transactions, and makes and drops a database to do it: no code of the service uses it.
`drill` has to see errors as they are, and the database past all that it breaks."""

FORBIDDEN: dict[str, tuple[str, ...]] = {
    "worker": ("producer",),
    "worker.jobs": ("asyncpg", "redis", "arq", "settings", "tidepool.storage", "tidepool.engine", "tidepool.health"),
    "tidepool.engine": ("asyncpg", "tidepool.storage", "tidepool.health", "settings"),
    "tidepool.storage": ("redis", "arq", "settings", "tidepool.engine", "tidepool.health", "tidepool.queue.connection"),
    "tidepool.health": ("redis", "arq", "asyncpg", "settings", "tidepool.engine"),
    "tidepool.jobs.outcomes": ("worker", "producer", "settings", "asyncpg", "redis", "arq", "pydantic"),
    "tidepool.ledger.batcher": ("asyncpg", "redis", "arq", "settings", "tidepool.storage", "tidepool.engine"),
    "tidepool.fleet.budget": ("asyncpg", "arq", "settings", "tidepool.health"),
    "tidepool.ledger.ledger": ("asyncpg", "redis", "arq", "settings", "tidepool.engine"),
    "tidepool.ledger.delivery": ("asyncpg", "redis", "arq", "settings", "tidepool.storage", "tidepool.engine"),
    "settings": ("worker", "producer"),
    "urls": ("worker", "producer", "settings", "asyncpg", "redis", "libpq"),
    "libpq": ("worker", "producer", "settings", "asyncpg", "redis"),
    "producer.workload": ("asyncpg", "redis", "arq", "settings"),
    "producer.commands_file": ("asyncpg", "redis", "arq", "settings"),
    "producer.report": ("asyncpg", "redis", "arq", "settings"),
}
"""A package, and what neither it nor anything below it imports."""


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


def test_the_walk_sees_something() -> None:
    """Else an empty list of crossed arrows would mean nothing."""
    assert {"settings", "worker", "tidepool.ledger.ledger", "tidepool.pool.pool", "tidepool.client"} <= set(MODULES)
    assert "tidepool.pool.pool.Pool" in set(imports_of(MODULES["tidepool.ledger.ledger"]))


@pytest.mark.parametrize("package", FORBIDDEN)
def test_no_arrow_is_crossed(package: str) -> None:
    """Each crossed one is named: who imports what it may not know."""
    crossed = [
        f"{module} → {name}"
        for module, path in MODULES.items()
        if is_in(module, package)
        for name in imports_of(path)
        if any(is_in(name, forbidden) for forbidden in FORBIDDEN[package])
    ]
    assert [] == crossed


def test_only_the_database_package_knows_asyncpg() -> None:
    """It comes without types and with its own errors: both stay in there."""
    known_by = {module for module, path in MODULES.items() if any(is_in(name, "asyncpg") for name in imports_of(path))}
    assert {module for module in known_by if not any(is_in(module, package) for package in MAY_KNOW_ASYNCPG)} == set()
    assert known_by


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
