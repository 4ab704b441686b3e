"""The ids that a commands file makes for lines without one."""

from commands_files import USER_LINE, ids


def test_the_same_file_makes_the_same_ids_again_wherever_it_lies() -> None:
    """A second run reports duplicates, also from another directory and after the last newline was added."""
    content = USER_LINE + b"\n" + USER_LINE
    assert ids(content, "a/commands.jsonl") == ids(content + b"\n", "/b/commands.jsonl")


def test_equal_lines_of_a_file_are_two_jobs() -> None:
    """Two orders of the same thing are two orders."""
    first, second = ids(USER_LINE + b"\n" + USER_LINE)
    assert first != second
    assert first.startswith("file-")
    assert len(first) == len("file-") + 32


def test_another_file_or_another_place_or_another_text_makes_another_job() -> None:
    """What the made id means: this line, at this place, of a file of this name."""
    made = ids(USER_LINE) + ids(USER_LINE, "other.jsonl") + ids(b"\n" + USER_LINE) + ids(b" " + USER_LINE)
    assert len(set(made)) == len(made)


def test_standard_input_makes_new_ids_every_time() -> None:
    """Two pipes are not the same file."""
    made = ids(USER_LINE, "-") + ids(USER_LINE, "-")
    assert len(set(made)) == len(made)


def test_a_file_name_that_is_not_unicode_makes_ids_too() -> None:
    """Python hands such a name over with lone surrogates."""
    assert ids(USER_LINE, "caf\udce9.jsonl")
