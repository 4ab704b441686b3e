"""Numbers on the command lines that would hurt: too many processes, no number, more than there is."""

import pytest

from lab.__main__ import command_line as lab_commands
from producer.__main__ import main as producer
from tidepool.cli.operators import command_line as operators_commands


@pytest.mark.parametrize("count", ["0", "-1", "65", "9" * 30, "9" * 5000, "\u0663", "1_0", "", "nan"])
@pytest.mark.parametrize("command", ["producer", "drill", "tune", "load-test"])
def test_only_so_many_workers_are_started(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str, count: str
) -> None:
    """A digit too many started processes until the machine had no memory left."""
    monkeypatch.setattr("sys.argv", ["producer", "--jobs", "1", "--workers", count])
    with pytest.raises(SystemExit) as ended:
        producer() if command == "producer" else lab_commands().parser.parse_args([command, "--workers", count])
    assert 2 == ended.value.code
    assert "argument --workers: " in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        *(["drill", "--minutes", minutes] for minutes in ("nan", "inf", "-1", "0", "1e9", "x")),
        *(["bench", "--pin", cores] for cores in ("9999", "9" * 20, "\u0663", "0,", "")),
        ["snapshots", "--limit", "9" * 19],
        ["snapshots", "--since", "\u0663m"],
    ],
)
def test_a_number_that_is_none_or_not_there_is_refused(words: list[str]) -> None:
    """With status 2, before anything starts."""
    with pytest.raises(SystemExit) as ended:
        (operators_commands("worker") if words[0] == "snapshots" else lab_commands()).parser.parse_args(words)
    assert 2 == ended.value.code
