"""The list of mutations goes with the code: whoever changes a line that one is about has to look at it."""

import pytest

from tests.mutations.catalogue import MUTATIONS, ROOT, Mutation


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.what)
def test_a_mutation_fits_its_file_and_names_a_test(mutation: Mutation) -> None:
    """Its text is found exactly once, another stands there afterwards, and the test's function is there."""
    text = (ROOT / mutation.path).read_text("utf-8")
    assert text != mutation.applied_to(text)
    path, _, name = mutation.test.partition("::")
    assert f"def {name.partition('[')[0]}" in (ROOT / path).read_text("utf-8")


def test_no_mutation_is_listed_twice() -> None:
    """Each has a name of its own."""
    assert len({mutation.what for mutation in MUTATIONS}) == len(MUTATIONS)
