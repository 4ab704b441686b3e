"""All repositories over one connection: the library's, and the service's."""

from tidepool.pool.connection import Connection
from tidepool.storage.repositories import Repositories
from worker.tables.orders import OrderRepository
from worker.tables.products import ProductRepository
from worker.tables.users import UserRepository


class Tables(Repositories):
    """Every table."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self.users = UserRepository(connection)
        self.products = ProductRepository(connection)
        self.orders = OrderRepository(connection)
