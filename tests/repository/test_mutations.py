"""The list of mutations fits the code: a change of a line that a mutation is about has to change the mutation."""

import ast

import pytest

from tests.mutations.catalogue import MUTATIONS
from tests.mutations.mutation import Mutation


def fit(mutation: Mutation) -> None:
    """Put the fault in: its text is found once, another stands there afterwards, and the test exists."""
    faulty = mutation.faulty_text()
    assert mutation.path.read_text("utf-8") != faulty
    if mutation.path.suffix == ".py":
        ast.parse(faulty)  # a syntax error would turn any test red
    assert mutation.test_id


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.what)
def test_a_mutation_fits_its_place_and_names_a_test(mutation: Mutation) -> None:
    """A change of the code that a row is about changes the row."""
    fit(mutation)


def test_no_mutation_is_listed_twice() -> None:
    """Each has a name of its own."""
    assert len({mutation.what for mutation in MUTATIONS}) == len(MUTATIONS)


@pytest.mark.parametrize(
    ("where", "old", "test", "words"),
    [
        ("NoSuchThing", "ROOT", "test_settings.py", "'NoSuchThing' is the name of 0 places"),
        ("Batcher", "if False: nowhere", "test_settings.py", "Batcher has 0 times .*; it stands nowhere"),
        ("batcher.py", "if count < len(entries)", "test_settings.py", "0 times .*; it stands in .*: Ledger"),
        ("batcher.py", "import asyncio", "test_nothing", "'test_nothing' is the name of 0 tests"),
        ("batcher.py", "self", "test_settings.py", r"batcher.py has \d+ times 'self'"),
        ("jobs.py", "import", "test_settings.py", "'jobs.py' is the name of [2-9] places; it stands in .*jobs"),
    ],
)
def test_a_row_that_does_not_fit_says_why(where: str, old: str, test: str, words: str) -> None:
    """The error names the place where its text stands now."""
    with pytest.raises(ValueError, match=words):
        fit(Mutation("odd", where, old, "", test))
