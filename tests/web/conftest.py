"""What the tests of the web application and of its HTTP server share."""

from echo_server import served
from front import front

__all__ = ["front", "served"]
