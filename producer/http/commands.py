"""The HTTP routes that enqueue the service's jobs, such as `POST /users/`.

`tidepool.web.JobRequests` handles the requests; the commands of `worker.jobs` validate the fields.
"""

from fastapi import Request, Response

from tidepool.web import JobRequests, Router, RowId, Using
from worker.jobs.create_product import create_product
from worker.jobs.create_user import create_user
from worker.jobs.place_order import place_order
from worker.jobs.set_stock import set_stock
from worker.jobs.update_user import update_user
from worker.reasons import ShopReason

router = Router(tags=["commands"])

_requests = JobRequests(
    places={"user_id": "/users/", "product_id": "/products/", "order_id": "/orders/"},
    unprocessable=(ShopReason.UNKNOWN_USER, ShopReason.UNKNOWN_PRODUCT),
    alternatives=(("user_id", "username"), ("product_id", "sku")),
)


@router.post("/users/", **_requests.route(create_user, "Create a user"))
async def _create_user(request: Request, services: Using) -> Response:
    """Enqueue a job that creates a user. It is rejected if the username or the email, compared exactly, is taken."""
    return await _requests.accept(request, services, create_user)


@router.post("/products/", **_requests.route(create_product, "Create a product"))
async def _create_product(request: Request, services: Using) -> Response:
    """Enqueue a job that creates a product. The sku is optional; the job is rejected if another product has it."""
    return await _requests.accept(request, services, create_product)


@router.post("/orders/", **_requests.route(place_order, "Place an order"))
async def _place_order(request: Request, services: Using) -> Response:
    """Enqueue a job that places an order. Name the user by either id or username, the product by either id or sku."""
    return await _requests.accept(request, services, place_order)


@router.put(
    "/users/{user_id}",
    **_requests.route(update_user, "Change a user", named=("user_id", "username")),
)
async def _update_user(request: Request, services: Using, user_id: RowId) -> Response:
    """Enqueue a job that changes a user. Fields that are left out keep their values.

    The job is rejected if another user has the new email.
    """
    return await _requests.accept(request, services, update_user, user_id=user_id)


@router.put(
    "/products/{product_id}/stock",
    **_requests.route(set_stock, "Set a product's stock", named=("product_id", "sku")),
)
async def _set_stock(request: Request, services: Using, product_id: RowId) -> Response:
    """Enqueue a job that sets whether a product is in stock, so that it can be ordered."""
    return await _requests.accept(request, services, set_stock, product_id=product_id)
