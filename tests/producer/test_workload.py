"""Generated workloads: the same again for the same seed, valid, connected, and small in memory."""

import tracemalloc
from collections import Counter
from collections.abc import Iterable
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer.workload import DEFAULT_MIX, Workload
from tidepool.jobs.job import check_id
from tidepool.jobs.outcomes import Rejected
from tidepool.jobs.submission import Submission
from worker.jobs import JOBS

ALL_KINDS = {"create_user": 3, "create_product": 2, "place_order": 7, "update_user": 1, "set_stock": 1}
SEEDS = st.integers(-(2**63), 2**63 - 1)
MIXES = st.dictionaries(st.sampled_from([*ALL_KINDS]), st.integers(0, 9), min_size=1).filter(
    lambda mix: any(mix.values())
)


def values(items: Iterable[Submission], kind: str, field: str) -> list[object]:
    """Return the values of one field in the jobs of one kind."""
    return [item.fields[field] for item in items if item.function == kind and field in item.fields]


@given(SEEDS, MIXES)
def test_every_generated_command_is_valid(seed: int, mix: dict[str, int]) -> None:
    """Whatever the seed and the mix, the job's own model accepts the fields, and the queue the id."""
    for item in islice(Workload(seed, mix), 60):
        job_type = JOBS.get(item.function)
        assert job_type is not None
        assert not isinstance(job_type.parse(item.fields), Rejected), item
        check_id(item.id)


@given(SEEDS, MIXES, st.integers(0, 50))
def test_a_shorter_workload_is_the_beginning_of_a_longer_one(seed: int, mix: dict[str, int], count: int) -> None:
    """So a run that is repeated with more jobs adds to the first one instead of being another."""
    assert list(islice(Workload(seed, mix), count)) == list(islice(Workload(seed, mix), 1000))[:count]


def test_the_order_in_which_a_mix_is_written_changes_nothing() -> None:
    """Neither do kinds with a share of 0."""
    turned = {"set_stock": 0, **dict(reversed(DEFAULT_MIX.items()))}
    assert list(islice(Workload(5, turned), 200)) == list(islice(Workload(5), 200))


def test_a_workload_is_the_same_on_every_machine_and_in_every_release() -> None:
    """A seed in a bug report must still mean the same jobs: these were written down when it was made."""
    items = list(islice(Workload(42), 2000))
    user = {
        "username": "camille.beranger.16.0",
        "email": "camille.beranger.16.0@example.com",
        "full_name": "Camille Béranger",
    }
    assert items[0] == Submission("load-42-0", "create_user", user, identity=True)
    assert (items[1].fields["sku"], items[1].fields["price"]) == ("ELE-16-0", "1241.02")
    order = {"username": "thomas.oneill.16.330", "sku": "ELE-16-156", "quantity": 6}
    assert items[-1] == Submission("load-42-1999", "place_order", order, identity=True)


@given(SEEDS, SEEDS)
def test_two_seeds_share_no_key(first: int, second: int) -> None:
    """Two runs against one database must not take each other's usernames."""
    if first == second:
        return
    mix = {"create_user": 1, "create_product": 1, "update_user": 1}
    for kind, field in [
        ("create_user", "username"),
        ("create_user", "email"),
        ("create_product", "sku"),
        ("update_user", "email"),
    ]:
        left, right = (values(islice(Workload(seed, mix), 40), kind, field) for seed in (first, second))
        assert not set(left) & set(right)
    assert not {item.id for item in islice(Workload(first), 9)} & {item.id for item in islice(Workload(second), 9)}


def test_keys_are_unique_within_a_workload() -> None:
    """Also those that updates set."""
    items = list(islice(Workload(1, ALL_KINDS), 20_000))
    emails = values(items, "create_user", "email") + values(items, "update_user", "email")
    for keys in (
        emails,
        values(items, "create_user", "username"),
        values(items, "create_product", "sku"),
        [i.id for i in items],
    ):
        assert len(set(keys)) == len(keys)


@given(SEEDS, st.sampled_from([DEFAULT_MIX, ALL_KINDS, {"set_stock": 50, "create_product": 1, "create_user": 1}]))
def test_commands_refer_only_to_what_the_stream_has_made_already(seed: int, mix: dict[str, int]) -> None:
    """A stream begins with a user and a product, so that even the first order has both."""
    usernames: set[object] = set()
    skus: set[object] = set()
    for item in islice(Workload(seed, mix), 150):
        if item.function == "create_user":
            usernames.add(item.fields["username"])
        elif item.function == "create_product":
            skus.add(item.fields["sku"])
        else:
            assert item.fields.get("username") in usernames | {None}
            assert item.fields.get("sku") in skus | {None}


def test_a_mix_that_makes_no_users_refers_to_ids() -> None:
    """It is meant for a database that has users; products, which it makes, go by their sku."""
    items = list(islice(Workload(3, {"create_product": 1, "place_order": 3}), 300))
    assert items[0].function == "create_product"
    user_ids = values(items, "place_order", "user_id")
    assert len(user_ids) == len(values(items, "place_order", "sku")) > 150
    assert all(isinstance(user_id, int) and 1 <= user_id <= 1000 for user_id in user_ids)


def test_the_shares_are_those_of_the_mix() -> None:
    """2 : 1 : 7, give or take what chance does in 20,000 draws."""
    counts = Counter(item.function for item in islice(Workload(8), 20_000))
    assert {kind: round(counts[kind] / 2000) for kind in counts} == DEFAULT_MIX


def test_a_workload_shows_what_rejections_look_like() -> None:
    """1 % of the users are inactive, 4 % of the products out of stock, and orders of them are among the rest."""
    items = list(islice(Workload(8), 20_000))
    users, products = (sum(item.function == kind for item in items) for kind in ("create_user", "create_product"))
    assert len(values(items, "create_user", "is_active")) == pytest.approx(users / 100, abs=1)
    assert len(values(items, "create_product", "in_stock")) == pytest.approx(products / 25, abs=1)
    sold_out = {item.fields["sku"] for item in items if item.fields.get("in_stock") is False}
    assert 0.01 < sum(sku in sold_out for sku in values(items, "place_order", "sku")) / 14_000 < 0.08


def test_some_products_sell_far_more_than_others() -> None:
    """As in a shop: the best fifth of the products gets half of the orders or more."""
    sales = Counter(values(islice(Workload(8), 20_000), "place_order", "sku"))
    ranked = [count for _, count in sales.most_common()]
    assert sum(ranked[: len(ranked) // 5]) > sum(ranked) / 2


def test_names_have_accents_and_usernames_have_none() -> None:
    """Real names find the encoding faults; a username is what people type."""
    items = list(islice(Workload(8, {"create_user": 1}), 1000))
    assert any(not str(name).isascii() for name in values(items, "create_user", "full_name"))
    assert all(str(name).isascii() for name in values(items, "create_user", "username"))


def test_memory_does_not_grow_with_the_count() -> None:
    """A million jobs must fit into a producer as ten do: nothing that was generated is kept."""
    tracemalloc.start()
    try:
        for _ in islice(Workload(1, ALL_KINDS), 15_000):
            pass
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 100_000


def test_a_mix_is_read_from_text() -> None:
    """The text is that of the command line; spaces are allowed."""
    assert Workload.parse_mix("create_user=2,create_product=1,place_order=7") == DEFAULT_MIX
    assert Workload.parse_mix(" update_user = 1 , set_stock=0") == {"update_user": 1, "set_stock": 0}


@given(MIXES)
def test_every_mix_can_be_written_as_text(mix: dict[str, int]) -> None:
    """Reading the text gives the same mix again."""
    assert Workload.parse_mix(",".join(f"{kind}={share}" for kind, share in mix.items())) == mix


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "a mix is written as create_user=2,place_order=7, of the job types create_user, "),
        ("create_user", "a mix is written as"),
        ("create_user=1,", "a mix is written as"),
        ("=1", "a mix is written as"),
        ("drop_table=1", "'drop_table' is not a job type that can be generated: these are create_user, create_product"),
        ("create_user=-1", "the share of create_user must be a whole number"),
        ("create_user=1.5", "the share of create_user must be a whole number"),
        ("create_user=", "the share of create_user must be a whole number"),
        ("create_user=9999999999", "the share of create_user must be a whole number"),
        ("create_user=1,create_user=2", "create_user occurs twice"),
        ("create_user=0,place_order=0", "a mix needs a share above 0"),
    ],
)  # fmt: skip
def test_a_mix_that_is_none_is_refused_in_clear_words(text: str, words: str) -> None:
    """The words are all that the command line shows."""
    with pytest.raises(ValueError, match=words):
        Workload.parse_mix(text)


def test_what_cannot_be_generated_is_refused_before_the_first_job() -> None:
    """At the call, not when the stream is first read."""
    with pytest.raises(ValueError, match="'nap' is not a job type"):
        Workload(1, {"nap": 1})
    with pytest.raises(ValueError, match="negative"):
        Workload(1, {"create_user": -1, "place_order": 2})
    with pytest.raises(ValueError, match="above 0"):
        Workload(1, {})
    with pytest.raises(ValueError, match="64 bits"):
        Workload(2**63)
