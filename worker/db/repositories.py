"""What one connection offers: a repository per table."""

from worker.db.connection import Connection
from worker.db.events import EventRepository
from worker.db.orders import OrderRepository
from worker.db.processes import ProcessRepository
from worker.db.products import ProductRepository
from worker.db.result_pages import ResultPages
from worker.db.results import ResultRepository
from worker.db.retention import RetentionRepository
from worker.db.server import ServerRepository
from worker.db.snapshots import SnapshotRepository
from worker.db.users import UserRepository


class Repositories:
    """The repositories over one connection."""

    def __init__(self, connection: Connection) -> None:
        self.users = UserRepository(connection)
        self.products = ProductRepository(connection)
        self.orders = OrderRepository(connection)
        self.results = ResultRepository(connection)
        self.result_pages = ResultPages(connection)
        self.snapshots = SnapshotRepository(connection)
        self.processes = ProcessRepository(connection)
        self.server = ServerRepository(connection)
        self.events = EventRepository(connection)
        self.retention = RetentionRepository(connection)
