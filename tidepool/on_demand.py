"""Imports the public names of a package when they are first used, so that importing the package itself is quick."""

import sys
from collections.abc import Callable, Mapping
from importlib import import_module


def import_on_demand(package: str, homes: Mapping[str, str]) -> Callable[[str], object]:
    """Return a `__getattr__` for *package*, which imports each public name from its module when it is first used.

    *homes* maps each public name to the module that has it, as `module`, or as `module:name` if it has another name
    there.
    """

    def attribute(name: str) -> object:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, _, original = homes[name].partition(":")
        found: object = getattr(import_module(module), original or name)
        setattr(sys.modules[package], name, found)  # from now on Python finds it without this function
        return found

    return attribute
