"""Repositories on dictionaries: what `worker.jobs.ports` promises, without a database.

`tests/contract` runs one suite on these and on PostgreSQL, so that a test on the fakes means something.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from itertools import count

from tidepool.jobs.job import Job
from tidepool.jobs.outcomes import Reason
from tidepool.pool.faults import DataFault
from worker.jobs.create_product import CreateProduct
from worker.jobs.create_user import CreateUser
from worker.jobs.place_order import PlaceOrder
from worker.jobs.ports import PlacedOrder
from worker.jobs.set_stock import SetStock
from worker.jobs.update_user import UpdateUser

_CENT = Decimal("0.01")


@dataclass(frozen=True)
class FakeUser:
    """A row of users."""

    id: int
    username: str
    email: str
    full_name: str
    is_active: bool


@dataclass(frozen=True)
class FakeProduct:
    """A row of products."""

    id: int
    sku: str | None
    price: Decimal
    in_stock: bool


class FakeUsers:
    """The users, by id."""

    def __init__(self) -> None:
        self.rows: dict[int, FakeUser] = {}
        self._ids = count(1)

    async def create(self, commands: Sequence[CreateUser]) -> list[int | Reason]:
        """Insert in the order of the usernames, as PostgreSQL does."""
        ids: dict[int, int] = {}
        for position in sorted(range(len(commands)), key=lambda p: (commands[p].username, p)):
            command = commands[position]
            if not any(command.username == row.username or command.email == row.email for row in self.rows.values()):
                ids[position] = user_id = next(self._ids)
                self.rows[user_id] = FakeUser(user_id, **command.model_dump())
        return [ids.get(position) or self._clash(command) for position, command in enumerate(commands)]

    async def update(self, commands: Sequence[UpdateUser]) -> list[int | Reason]:
        """Change all that are there, or nothing where an email is taken."""
        changed = dict(self.rows)
        answers: list[int | Reason] = []
        for command in commands:
            user = self.find(command.user_id, command.username)
            if user is None:
                answers.append(Reason.UNKNOWN_USER)
                continue
            given = command.model_dump(exclude_none=True, exclude={"user_id", "username"})
            changed[user.id] = replace(changed[user.id], **given)
            answers.append(user.id)
            if any(row.email == changed[user.id].email and row.id != user.id for row in changed.values()):
                raise DataFault(Reason.EMAIL_TAKEN, "breaks users_email_key")
        self.rows = changed
        return answers

    def find(self, user_id: int | None, username: str | None) -> FakeUser | None:
        """Return the user with this id or this username."""
        return next((row for row in self.rows.values() if row.id == user_id or row.username == username), None)

    def _clash(self, command: CreateUser) -> Reason:
        return Reason.USERNAME_TAKEN if self.find(None, command.username) else Reason.EMAIL_TAKEN


class FakeProducts:
    """The products, by id."""

    def __init__(self) -> None:
        self.rows: dict[int, FakeProduct] = {}
        self._ids = count(1)

    async def create(self, commands: Sequence[CreateProduct]) -> list[int | Reason]:
        """Insert in order; of twins the first one wins."""
        answers: list[int | Reason] = []
        for command in commands:
            if command.sku is not None and self.find(None, command.sku):
                answers.append(Reason.SKU_TAKEN)
            else:
                product_id = next(self._ids)
                self.rows[product_id] = FakeProduct(product_id, command.sku, command.price, command.in_stock)
                answers.append(product_id)
        return answers

    async def set_stock(self, commands: Sequence[SetStock]) -> list[int | Reason]:
        """Set in order, so that the last one counts."""
        answers: list[int | Reason] = []
        for command in commands:
            product = self.find(command.product_id, command.sku)
            if product is not None:
                self.rows[product.id] = replace(product, in_stock=command.in_stock)
            answers.append(product.id if product else Reason.UNKNOWN_PRODUCT)
        return answers

    def find(self, product_id: int | None, sku: str | None) -> FakeProduct | None:
        """Return the product with this id or this sku."""
        return next(
            (row for row in self.rows.values() if row.id == product_id or (sku is not None and row.sku == sku)), None
        )


class FakeOrders:
    """The orders, by the id of their job."""

    def __init__(self, users: FakeUsers, products: FakeProducts) -> None:
        self.rows: dict[str, PlacedOrder] = {}
        self._users = users
        self._products = products
        self._ids = count(1)

    async def place(self, jobs: Sequence[Job[PlaceOrder]]) -> list[PlacedOrder | Reason]:
        """Place in order."""
        return [self._place(job) for job in jobs]

    def _place(self, job: Job[PlaceOrder]) -> PlacedOrder | Reason:
        command = job.command
        user = self._users.find(command.user_id, command.username)
        product = self._products.find(command.product_id, command.sku)
        if user is None:
            return Reason.UNKNOWN_USER
        if product is None:
            return Reason.UNKNOWN_PRODUCT
        if not user.is_active:
            return Reason.INACTIVE_USER
        if not product.in_stock:
            return Reason.OUT_OF_STOCK
        total = product.price * command.quantity if command.total_price is None else command.total_price
        self.rows[job.id] = PlacedOrder(next(self._ids), total.quantize(_CENT))
        return self.rows[job.id]


@dataclass
class FakeRepositories:
    """The repositories of one imagined transaction."""

    users: FakeUsers = field(default_factory=FakeUsers)
    products: FakeProducts = field(default_factory=FakeProducts)
    orders: FakeOrders = field(init=False)

    def __post_init__(self) -> None:
        self.orders = FakeOrders(self.users, self.products)
