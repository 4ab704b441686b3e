"""The help texts of all commands."""

import pytest

from producer.__main__ import command_line as producer_commands
from tests.samples import help_texts
from tidepool.cli.operators import command_line


def test_every_command_and_option_has_a_help_text() -> None:
    """Arguments without an option, such as JOB_ID, included."""
    assert [] == [name for name, text in help_texts() if not text.strip()]


@pytest.mark.parametrize("columns", [40, 80])
def test_help_fits_the_terminal(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    """Descriptions are wrapped, and their paragraphs stay apart."""
    monkeypatch.setenv("COLUMNS", str(columns))
    for name, parser in command_line("tidepool").parsers.items():
        _usage, _, text = parser.format_help().partition("\n\n")
        explained, _, examples = text.partition("examples:\n")
        assert [] == [line for line in explained.splitlines() if len(line) > columns], name
        assert examples
    paragraphs = command_line("tidepool").parsers["results"].format_help().split("\n\n")
    assert [paragraphs[1][:8], paragraphs[2][:10]] == ["List the", "An outcome"]


def test_examples_are_not_wrapped(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that they can be copied."""
    monkeypatch.setenv("COLUMNS", "40")
    line = "  python -m producer --jobs 10000 --workers 1          a generated workload, and a worker to run it"
    assert line in producer_commands().parsers[""].format_help().splitlines()
