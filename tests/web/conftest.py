"""What the tests of the web application share."""

from front import front

__all__ = ["front"]
