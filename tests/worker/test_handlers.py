"""The handlers of the service's jobs: the verdict for each job of a batch, on PostgreSQL."""

from typing import Any

from factories import a_change, a_job, a_product, a_stock, a_user, an_order
from tables import Tables

from tidepool.jobs.outcomes import Applied, Rejected, Unresolved
from worker.jobs import create_product, create_user, place_order, set_stock, update_user
from worker.reasons import ShopReason


async def test_users_are_created_or_clash(connection: Any) -> None:
    """The first of two twins is applied; the other one is rejected with the name of what it shares."""
    jobs = [a_job(a_user("ada")), a_job(a_user("ada", email="b@x")), a_job(a_user("eve", email="ada@example.org"))]
    assert [
        Applied({"user_id": 1}),
        Rejected(ShopReason.USERNAME_TAKEN),
        Rejected(ShopReason.EMAIL_TAKEN),
    ] == await create_user.create_user(connection, jobs)


async def test_products_are_created_or_clash(connection: Any) -> None:
    """Without a sku there is nothing to clash with."""
    jobs = [a_job(a_product("A")), a_job(a_product("A")), a_job(a_product(None)), a_job(a_product(None))]
    first, clash, *others = await create_product.create_product(connection, jobs)
    assert Applied({"product_id": 1}) == first
    assert Rejected(ShopReason.SKU_TAKEN) == clash
    assert all(isinstance(other, Applied) for other in others)


async def test_an_order_is_placed_with_its_total(connection: Any) -> None:
    """Price times quantity, as exact text."""
    repositories = Tables(connection)
    await repositories.users.create([a_user()])
    await repositories.products.create([a_product(price="12.50")])
    placed = await place_order.place_order(connection, [a_job(an_order(quantity=3))])
    assert [Applied({"order_id": 1, "total_price": "37.50"})] == placed


async def test_an_order_that_came_too_early_is_unresolved(connection: Any) -> None:
    """Its user or product may still be on the way."""
    repositories = Tables(connection)
    await repositories.users.create([a_user("ada")])
    verdicts = await place_order.place_order(connection, [a_job(an_order("eve")), a_job(an_order("ada", "GONE"))])
    assert [Unresolved(ShopReason.UNKNOWN_USER), Unresolved(ShopReason.UNKNOWN_PRODUCT)] == verdicts


async def test_an_order_against_the_rules_is_rejected(connection: Any) -> None:
    """Trying again cannot help."""
    repositories = Tables(connection)
    await repositories.users.create([a_user("ada"), a_user("idle", is_active=False)])
    await repositories.products.create([a_product("LAMP"), a_product("SOLD", in_stock=False)])
    verdicts = await place_order.place_order(connection, [a_job(an_order("idle")), a_job(an_order("ada", "SOLD"))])
    assert [Rejected(ShopReason.INACTIVE_USER), Rejected(ShopReason.OUT_OF_STOCK)] == verdicts


async def test_a_change_applies_to_a_user_who_is_there(connection: Any) -> None:
    """For an unknown user it is tried again."""
    repositories = Tables(connection)
    await repositories.users.create([a_user("ada")])
    jobs = [a_job(a_change("ada", is_active=False)), a_job(a_change("eve", is_active=False))]
    assert [Applied({"user_id": 1}), Unresolved(ShopReason.UNKNOWN_USER)] == await update_user.update_user(
        connection, jobs
    )
    user = await repositories.users.get_by_id(1)
    assert user is not None
    assert not user.is_active


async def test_stock_is_set_for_a_product_that_is_there(connection: Any) -> None:
    """For an unknown product it is tried again."""
    repositories = Tables(connection)
    await repositories.products.create([a_product("LAMP")])
    jobs = [a_job(a_stock("LAMP", in_stock=False)), a_job(a_stock("GONE", in_stock=True))]
    assert [Applied({"product_id": 1}), Unresolved(ShopReason.UNKNOWN_PRODUCT)] == await set_stock.set_stock(
        connection, jobs
    )
    product = await repositories.products.get_by_id(1)
    assert product is not None
    assert not product.in_stock
