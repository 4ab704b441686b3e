"""Ids of jobs: which are accepted, and which id the ledger has for a job."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidepool.jobs.job import MAX_ID_CHARACTERS, Job, check_id


def ledger_id(queue_id: str) -> str:
    """Return the id that the ledger has of a job."""
    job: Job = Job(queue_id)
    return job.id


@given(st.text())
def test_an_id_that_is_accepted_is_safe_wherever_ids_go(job_id: str) -> None:
    """In a Redis key, a log line and a text column: encodable, in one piece, not empty."""
    try:
        check_id(job_id)
    except ValueError:
        return
    assert job_id.encode()
    assert job_id.strip() == job_id
    assert job_id.isprintable()
    assert job_id == ledger_id(job_id)
    assert "\x00" not in job_id


@pytest.mark.parametrize(
    "job_id",
    [
        "",
        "x" * 201,
        " a",
        "a ",
        " ",
        "a\tb",
        "a\ufffd",
        "a\u202eb",
        "a\x85",
        "a\n",
        "a\x00",
        "a\u2028b",
        "a\u00a0b",
        "\x7f",
        "\ud800",
        "a\u200bb",
        ".",
        "..",
        ledger_id(" a"),
    ],
)
def test_an_id_that_would_break_something_is_refused(job_id: str) -> None:
    """Empty, too long, whitespace, control characters, invisible ones, lone surrogates, mere dots, escaped ids."""
    with pytest.raises(ValueError, match="must have "):
        check_id(job_id)


@pytest.mark.parametrize(
    "job_id",
    ["a", "or-p-BANK CHARGES", "a  b", "x" * 200, "northwind-order-10248-42", "größe:7/8", "注文-1", "...", "a/.."],
)
def test_ids_as_people_choose_them_are_accepted(job_id: str) -> None:
    """Any language, any punctuation."""
    check_id(job_id)


@given(st.text(max_size=210), st.text(max_size=210))
def test_the_ledger_has_an_id_of_its_own_for_every_id(one: str, other: str) -> None:
    """Whatever an arq client chose, and also if it chose the ledger's id of another job."""
    made = [ledger_id(one), ledger_id(other), ledger_id(ledger_id(one)), ledger_id(ledger_id(other))]
    chosen = [one, other, ledger_id(one), ledger_id(other)]
    assert len(set(chosen)) == len(set(made))
    for job_id in made:
        assert job_id.isprintable()
        assert 1 <= len(job_id.strip()) == len(job_id) <= MAX_ID_CHARACTERS
