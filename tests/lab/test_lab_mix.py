"""The jobs of a laboratory's load."""

import argparse
from collections import Counter
from itertools import islice

import pytest

from lab.tuning.mix import jobs, shares
from tidepool.jobs.arguments import Command
from worker.jobs import JOBS


def test_shares_are_what_was_asked_for() -> None:
    """About so many of each, after the users and products that its orders name."""
    mix = shares("create_user=2,create_product=1,place_order=7")
    assert {"create_user": 2, "create_product": 1, "place_order": 7} == mix
    drawn = list(islice(jobs(mix), 12_000))
    assert {"create_user": 1000, "create_product": 1000} == Counter(function for function, _ in drawn[:2000])
    counted = Counter(function for function, _ in drawn[2000:])
    assert {name: pytest.approx(share * 1000, rel=0.1) for name, share in mix.items()} == counted


def test_every_job_is_valid_and_new() -> None:
    """Every user that an order names is created before it."""
    mix = shares("create_user=1,create_product=1,place_order=1")
    named, ordered = set[str](), set[str]()
    for function, fields in islice(jobs(mix), 4000):
        job_type = JOBS.get(function)
        assert job_type is not None
        assert isinstance(job_type.parse(fields), Command)
        if function == "place_order":
            assert {fields["username"], fields["sku"]} <= named
            ordered.add(fields["username"])
        else:
            name = fields["username"] if function == "create_user" else fields["sku"]
            assert name not in named
            named.add(name)
    assert len(ordered) > 100


@pytest.mark.parametrize(
    "text", ["", "create_user", "create_user=0", "create_user=-1", "a=1", "create_user=1,create_user=2"]
)
def test_an_invalid_mix_is_refused(text: str) -> None:
    """With what one looks like."""
    with pytest.raises(argparse.ArgumentTypeError, match="is no share such as place_order=7, of create_user"):
        shares(text)
