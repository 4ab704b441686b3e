"""The repositories of the library's own tables, over one connection."""

from tidepool.pool.connection import Connection
from tidepool.storage.events import EventRepository
from tidepool.storage.processes import ProcessRepository
from tidepool.storage.result_pages import ResultPages
from tidepool.storage.results import ResultRepository
from tidepool.storage.retention import RetentionRepository
from tidepool.storage.server import ServerRepository
from tidepool.storage.snapshots import SnapshotRepository


class Repositories:
    """The repositories over one connection."""

    def __init__(self, connection: Connection) -> None:
        self.results = ResultRepository(connection)
        self.result_pages = ResultPages(connection)
        self.snapshots = SnapshotRepository(connection)
        self.processes = ProcessRepository(connection)
        self.server = ServerRepository(connection)
        self.events = EventRepository(connection)
        self.retention = RetentionRepository(connection)
