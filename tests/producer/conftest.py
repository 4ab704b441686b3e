"""What the tests of the producer share."""

from front import front, served

__all__ = ["front", "served"]
