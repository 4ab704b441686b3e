"""The service's repositories on PostgreSQL: what each write returns, in order, and what it leaves alone."""

from decimal import Decimal
from typing import Any

import pytest
from factories import a_change, a_job, a_product, a_stock, a_user, an_order
from tables import Tables

from tidepool.pool.faults import DataFault, translated
from worker.reasons import ShopReason


@pytest.fixture
def repositories(connection: Any) -> Tables:
    """Give the repositories of a connection to PostgreSQL."""
    return Tables(connection)


async def with_a_shop(repositories: Tables) -> tuple[int, int]:
    """Create the user ada and the product LAMP at 12.50; return their ids."""
    (user_id,) = await repositories.users.create([a_user("ada")])
    (product_id,) = await repositories.products.create([a_product("LAMP", price="12.50")])
    assert isinstance(user_id, int)
    assert isinstance(product_id, int)
    return user_id, product_id


async def place(repositories: Tables, *orders: Any) -> list[Any]:
    """Place *orders* as jobs; return the outcome of each, an order as its total."""
    placed = await repositories.orders.place([(a_job(order).id, order) for order in orders])
    return [order if isinstance(order, ShopReason) else order[1] for order in placed]


async def test_new_users_get_ids_of_their_own(repositories: Tables) -> None:
    """Positive and distinct."""
    ids = await repositories.users.create([a_user("ada"), a_user("bob"), a_user("eve")])
    assert 3 == len(set(ids))
    assert all(isinstance(user_id, int) and user_id > 0 for user_id in ids)


async def test_the_answers_are_in_the_order_of_the_commands(repositories: Tables) -> None:
    """Whatever order the rows are locked in: each id is the one that finds its user again."""
    names = ["zoe", "ada", "moe", "bob"]
    ids = await repositories.users.create([a_user(name) for name in names])
    assert ids == await repositories.users.update([a_change(name, is_active=True) for name in names])


async def test_a_taken_username_is_reported_before_a_taken_email(repositories: Tables) -> None:
    """If both are taken, the reason names the username."""
    await repositories.users.create([a_user("ada"), a_user("bob")])
    assert [
        ShopReason.USERNAME_TAKEN,
        ShopReason.EMAIL_TAKEN,
        ShopReason.USERNAME_TAKEN,
    ] == await repositories.users.create(
        [a_user("ada", email="new@x"), a_user("new", email="ada@example.org"), a_user("ada", email="bob@example.org")]
    )


async def test_of_twins_in_one_batch_the_first_one_wins(repositories: Tables) -> None:
    """By username, and by sku."""
    first, second = await repositories.users.create([a_user("ada", email="1@x"), a_user("ada", email="2@x")])
    assert (True, ShopReason.USERNAME_TAKEN) == (isinstance(first, int), second)
    first, second = await repositories.products.create([a_product("LAMP"), a_product("LAMP")])
    assert (True, ShopReason.SKU_TAKEN) == (isinstance(first, int), second)


async def test_one_of_two_users_with_one_email_wins(repositories: Tables) -> None:
    """The one whose username sorts first, since rows are inserted in that order."""
    second, first = await repositories.users.create([a_user("bob", email="e@x"), a_user("ada", email="e@x")])
    assert (True, ShopReason.EMAIL_TAKEN) == (isinstance(first, int), second)


@pytest.mark.parametrize(
    ("one", "other"), [("ada", "ADA"), ("é", "e\u0301"), ("i", "İ"), ("a", "a "), ("x", "x\u200b"), ("ß", "ss")]
)
async def test_names_are_compared_to_the_letter(repositories: Tables, one: str, other: str) -> None:
    """Case, accents and blanks tell users apart."""
    ids = await repositories.users.create([a_user(one, email="1@x"), a_user(other, email="2@x")])
    assert all(isinstance(user_id, int) for user_id in ids)


async def test_a_taken_sku_is_reported(repositories: Tables) -> None:
    """Products without a sku never clash."""
    ids = await repositories.products.create([a_product("LAMP"), a_product(None), a_product(None)])
    assert all(isinstance(product_id, int) for product_id in ids)
    assert [ShopReason.SKU_TAKEN] == await repositories.products.create([a_product("LAMP")])


async def test_a_change_answers_the_users_id(repositories: Tables) -> None:
    """By id or by username; an unknown one of either kind is reported."""
    user_id, _ = await with_a_shop(repositories)
    changes = [
        a_change("ada", full_name="Ada L."),
        a_change("eve", full_name="Eve"),
        a_change(user_id=user_id, is_active=False),
        a_change(user_id=user_id + 99, is_active=False),
    ]
    assert [user_id, ShopReason.UNKNOWN_USER, user_id, ShopReason.UNKNOWN_USER] == await repositories.users.update(
        changes
    )


async def test_a_change_leaves_the_other_fields_alone(repositories: Tables) -> None:
    """The email is still taken, and the user still active, after the name changed."""
    await with_a_shop(repositories)
    await repositories.users.update([a_change("ada", full_name="Ada L.")])
    assert [ShopReason.EMAIL_TAKEN] == await repositories.users.create([a_user("new", email="ada@example.org")])
    assert [Decimal("12.50")] == await place(repositories, an_order("ada"))


@pytest.mark.parametrize("last", [True, False])
async def test_changes_of_one_user_apply_in_their_order(repositories: Tables, last: bool) -> None:  # noqa: FBT001
    """Named by id or username: the last one counts."""
    user_id, _ = await with_a_shop(repositories)
    changes = [a_change("ada", is_active=not last), a_change(user_id=user_id, is_active=last)]
    await repositories.users.update(changes)
    assert [Decimal("12.50") if last else ShopReason.INACTIVE_USER] == await place(repositories, an_order("ada"))


async def test_an_email_can_move_on_within_a_batch(repositories: Tables) -> None:
    """One user's second change gives up what the first one took."""
    await repositories.users.create([a_user("ada")])
    changes = [a_change("ada", email="first@x"), a_change("ada", email="second@x")]
    await repositories.users.update(changes)
    (free,) = await repositories.users.create([a_user("new", email="first@x")])
    assert isinstance(free, int)


async def test_a_change_to_a_taken_email_fails_the_batch(repositories: Tables) -> None:
    """As a data fault that names the reason, and changes nothing."""
    await repositories.users.create([a_user("ada"), a_user("bob")])
    with pytest.raises(DataFault) as raised:
        async with translated():
            await repositories.users.update([a_change("bob", email="ada@example.org", is_active=False)])
    assert "users_email_key" == raised.value.constraint
    await repositories.products.create([a_product("LAMP")])
    assert [Decimal("12.50")] == await place(repositories, an_order("bob"))


async def test_setting_the_stock_answers_the_products_id(repositories: Tables) -> None:
    """By id or by sku; an unknown one of either kind is reported."""
    _, product_id = await with_a_shop(repositories)
    stocks = [
        a_stock("LAMP", in_stock=False),
        a_stock("GONE", in_stock=True),
        a_stock(product_id=product_id, in_stock=False),
        a_stock(product_id=product_id + 99, in_stock=True),
    ]
    assert [product_id, ShopReason.UNKNOWN_PRODUCT, product_id, ShopReason.UNKNOWN_PRODUCT] == (
        await repositories.products.set_stock(stocks)
    )


@pytest.mark.parametrize("last", [True, False])
async def test_of_several_stocks_the_last_one_counts(repositories: Tables, last: bool) -> None:  # noqa: FBT001
    """Named by id or sku."""
    _, product_id = await with_a_shop(repositories)
    stocks = [a_stock("LAMP", in_stock=last), a_stock("LAMP", in_stock=not last)]
    await repositories.products.set_stock([*stocks, a_stock(product_id=product_id, in_stock=last)])
    assert [Decimal("12.50") if last else ShopReason.OUT_OF_STOCK] == await place(repositories, an_order())


async def test_an_order_costs_price_times_quantity(repositories: Tables) -> None:
    """Unless its total is given; both are exact to the cent."""
    await with_a_shop(repositories)
    orders = [an_order(quantity=3), an_order(quantity=3, total_price="30.00"), an_order(quantity=1, total_price="0")]
    totals = await place(repositories, *orders)
    assert [Decimal("37.50"), Decimal("30.00"), Decimal("0.00")] == totals
    assert ["37.50", "30.00", "0.00"] == [str(total) for total in totals]


async def test_money_is_exact_at_the_edges(repositories: Tables) -> None:
    """A float would already be wrong at 0.1 times 3; the greatest price times the greatest quantity fits."""
    await repositories.users.create([a_user()])
    await repositories.products.create([a_product("TENTH", price="0.1"), a_product("DEAR", price="99999999.99")])
    orders = [an_order(sku="TENTH", quantity=3), an_order(sku="DEAR", quantity=2**31 - 1)]
    assert ["0.30", "214748364678525163.53"] == [str(total) for total in await place(repositories, *orders)]


async def test_an_order_names_user_and_product_by_id_or_by_their_own_keys(repositories: Tables) -> None:
    """Every pairing."""
    user_id, product_id = await with_a_shop(repositories)
    orders = [
        an_order("ada", "LAMP"),
        an_order(user_id=user_id),
        an_order(product_id=product_id),
        an_order(user_id=user_id, product_id=product_id),
    ]
    assert [Decimal("12.50")] * 4 == await place(repositories, *orders)


async def test_the_first_reason_that_holds_is_reported(repositories: Tables) -> None:
    """Unknown user, unknown product, inactive user, out of stock: in this order."""
    await repositories.users.create([a_user("ada"), a_user("idle", is_active=False)])
    await repositories.products.create([a_product("LAMP"), a_product("SOLD", in_stock=False)])
    orders = [
        an_order("nobody", "GONE"),
        an_order("nobody", "SOLD"),
        an_order("idle", "GONE"),
        an_order("idle", "SOLD"),
        an_order("ada", "SOLD"),
        an_order("idle", "LAMP"),
        an_order(user_id=2**63 - 1, product_id=2**63 - 1),
    ]
    assert [
        ShopReason.UNKNOWN_USER,
        ShopReason.UNKNOWN_USER,
        ShopReason.UNKNOWN_PRODUCT,
        ShopReason.INACTIVE_USER,
        ShopReason.OUT_OF_STOCK,
        ShopReason.INACTIVE_USER,
        ShopReason.UNKNOWN_USER,
    ] == await place(repositories, *orders)


async def test_orders_are_answered_in_order_and_have_ids_of_their_own(repositories: Tables) -> None:
    """Refused ones in between."""
    await with_a_shop(repositories)
    jobs = [(f"job-{q}", an_order(quantity=q) if q % 3 else an_order("nobody")) for q in range(1, 10)]
    placed = await repositories.orders.place(jobs)
    assert [Decimal("12.50") * q if q % 3 else ShopReason.UNKNOWN_USER for q in range(1, 10)] == [
        order if isinstance(order, ShopReason) else order[1] for order in placed
    ]
    ids = [order[0] for order in placed if not isinstance(order, ShopReason)]
    assert len(set(ids)) == len(ids) == 6


async def test_an_empty_batch_has_no_answers(repositories: Tables) -> None:
    """None of the methods needs a guard around it."""
    assert [] == list(await repositories.users.create([]))
    assert [] == list(await repositories.users.update([]))
    assert [] == list(await repositories.products.create([]))
    assert [] == list(await repositories.products.set_stock([]))
    assert [] == list(await repositories.orders.place([]))
