"""Generates the jobs of a load: create_user, create_product and place_order, by given shares."""

import argparse
import random
from collections.abc import Callable, Iterator
from itertools import count

USERS = {"create_user": 1}
_CATALOGUE = 1000
"""The number of users, and of products, that a load with orders begins with.

Its orders refer to these only, so that none has to wait for a user or product.
"""


def shares(text: str) -> dict[str, int]:
    """Parse the shares of job types, such as `create_user=2,create_product=1,place_order=7`; return them by job type.

    It is a type for `argparse`, and raises `ArgumentTypeError`.
    """
    mix: dict[str, int] = {}
    for part in text.split(","):
        name, _, share = part.partition("=")
        if name not in _FIELDS or name in mix or not (share.isdecimal() and int(share)):
            raise argparse.ArgumentTypeError(f"{part!r} is no share such as place_order=7, of {', '.join(_FIELDS)}")
        mix[name] = int(share)
    return mix


def jobs(mix: dict[str, int], seed: int = 0) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield jobs without end, each as its function and its fields. Equal arguments give equal jobs.

    If *mix* has orders, 1000 users and 1000 products come first.
    """
    chance = random.Random(seed)
    if "place_order" in mix:
        for number in range(_CATALOGUE):
            yield "create_user", _user(number, chance)
            yield "create_product", _product(number, chance)
    for number in count(_CATALOGUE):
        function = chance.choices(list(mix), list(mix.values()))[0]
        yield function, _FIELDS[function](number, chance)


def _user(number: int, _: random.Random) -> dict[str, object]:
    return {"username": f"lab.{number}", "email": f"lab.{number}@example.org", "full_name": "Ada Laboratory"}


def _product(number: int, _: random.Random) -> dict[str, object]:
    return {"sku": f"LAB-{number}", "name": f"Beaker {number}", "price": "12.50", "category": "Laboratory"}


def _order(_: int, chance: random.Random) -> dict[str, object]:
    return {
        "username": f"lab.{chance.randrange(_CATALOGUE)}",
        "sku": f"LAB-{chance.randrange(_CATALOGUE)}",
        "quantity": 1,
    }


_FIELDS: dict[str, Callable[[int, random.Random], dict[str, object]]] = {
    "create_user": _user,
    "create_product": _product,
    "place_order": _order,
}
