"""Generates commands (jobs to enqueue) from a seed and a mix, the shares of the job types, which determine all of them.

A workload is streamed, and has no end. It is guaranteed that

- a seed and a mix always give the same jobs;
- memory does not grow with the number of jobs;
- two seeds share no job id, username, email or sku.

A seed that is run a second time therefore reports duplicates (with another mix too: the ids are the seed's).

Nothing generated is kept: an order computes the names of the k-th user and the k-th product from the seed and k. A
stream remembers only how many users and products it has created.
"""

import re
import unicodedata
from bisect import bisect
from collections.abc import Iterator, Mapping
from itertools import accumulate
from random import Random
from typing import NamedTuple

from tidepool import Submission

DEFAULT_MIX: dict[str, int] = {"create_user": 2, "create_product": 1, "place_order": 7}
"""The shares of the job types in a workload, if no others are given."""

_KINDS: tuple[str, ...] = ("create_user", "create_product", "place_order", "update_user", "set_stock")
"""The job types that can be generated. `JOBS` may have more types."""
_SHARE = re.compile(r"[0-9]{1,9}")
_FOREIGN_IDS = 1000
_USERS_PER_INACTIVE = 100
_PRODUCTS_PER_OUT_OF_STOCK = 25
_QUANTITIES = (1,) * 8 + (2,) * 5 + (3,) * 3 + (4, 4, 5, 5, 6, 6, 7, 8, 9, 10, 10, 12, 24)
_MAIL_DOMAINS = ("example.com", "example.org", "example.net")

_NAMES = (  # given names and family names that go together
    ("María José Lucía Álvaro Sofía Andrés", "López García Núñez Fernández Muñoz Ibáñez"),
    ("Zoë Frédérique Benoît Élodie Jérôme Camille", "Lefèvre Dubois Béranger Moreau Gérard Citeaux"),
    ("Jürgen Annelie Björn Käthe Lukas Hanna", "Müller Schröder Weiß Köhler Vogel Groß"),
    ("Michał Agnieszka Łukasz Zofia Paweł Jadwiga", "Nowak Wiśniewska Kowalczyk Zielińska Wójcik Dąbek"),
    ("Søren Astrid Åsa Mikkel Ingrid Øyvind", "Sørensen Lindström Bjørk Håkansson Nygård Østby"),
    ("Ayşe Mehmet Çağla Emre Şirin Oğuz", "Demir Çelik Şahin Öztürk Kaya Doğan"),
    ("Minh Ánh Đức Thảo Quân Linh", "Nguyễn Trần Lê Phạm Đặng Hoàng"),
    ("João Inês Tomás Luísa André Beatriz", "Gonçalves Araújo Simões Magalhães Brandão Assunção"),
    ("Siobhán Niamh Oisín Grace Thomas Olivia", "O'Brien Murphy Ashworth O'Neill Taylor Byrne"),
    ("Chidi Ngozi Amara Kwame Yaa Adéwálé", "Okafor Adéyẹmí Mensah Balogun Nwosu Owusu"),
    ("Hiroshi Yūko Kenji Sakura Shōta Akiko", "Satō Suzuki Itō Kōno Ōta Yamamoto"),
    ("Priya Arjun Lakshmi Rohan Ananya Vikram", "Sharma Iyer Patel Rao Banerjee Reddy"),
)
_SHELVES = (  # sku prefix, category, lowest and highest price in cents, adjectives, nouns
    ("GRO", "Groceries", 199, 2499,
     "Organic Artisan Country Classic Extra Family", "Almonds Honey Crackers Pasta Tea Olives"),
    ("KIT", "Kitchen", 899, 18999,
     "Steel Copper Enamel Compact Professional Nordic", "Kettle Pan Grater Whisk Colander Scale"),
    ("OFF", "Office", 149, 7999,
     "Recycled Slim Executive Modular Ruled Magnetic", "Notebook Stapler Folder Organizer Planner Board"),
    ("GAR", "Garden", 499, 24999,
     "Hardy Galvanized Cedar Folding Solar Heavy-Duty", "Planter Rake Hose Lantern Trellis Trowel"),
    ("ELE", "Electronics", 1999, 149999,
     "Wireless Portable Smart Ultra Dual Rugged", "Speaker Charger Keyboard Monitor Camera Router"),
    ("SPO", "Sports", 999, 59999,
     "Trail Carbon Junior Waterproof Pro Lightweight", "Backpack Racket Helmet Bottle Gloves Tent"),
    ("TOY", "Toys", 599, 8999,
     "Wooden Musical Giant Magic Glowing Travel", "Puzzle Train Dinosaur Blocks Kite Robot"),
    ("BOO", "Books", 699, 5999,
     "Illustrated Pocket Annotated Complete Beginner's Modern", "Atlas Cookbook Dictionary Almanac Anthology Guide"),
)  # fmt: skip
_LETTERS_WITHOUT_ACCENT = str.maketrans({"ø": "o", "ł": "l", "đ": "d", "ß": "ss"})


class _Person(NamedTuple):
    login: str
    full_name: str


class _Article(NamedTuple):
    prefix: str
    category: str
    name: str
    description: str
    lowest_cents: int
    highest_cents: int

    def price(self, chance: int) -> str:
        """Return a price as text, derived from the random number *chance*. Low prices are more frequent."""
        first, second = chance % 1000, chance // 1000 % 1000
        cents = self.lowest_cents + (self.highest_cents - self.lowest_cents) * first * second // 1_000_000
        return f"{cents // 100}.{cents % 100:02}"


def _folded(text: str) -> str:
    """Return *text* in lower case with only the letters a to z: accents are removed, other characters left out."""
    plain = unicodedata.normalize("NFKD", text.lower().translate(_LETTERS_WITHOUT_ACCENT))
    return re.sub("[^a-z]", "", plain)


_PEOPLE = tuple(
    _Person(f"{_folded(given)}.{_folded(family)}", f"{given} {family}")
    for given_names, family_names in _NAMES
    for given in given_names.split()
    for family in family_names.split()
)
_ARTICLES = tuple(
    _Article(prefix, category, f"{adjective} {noun}", f"From our {category.lower()} range", lowest, highest)
    for prefix, category, lowest, highest, adjectives, nouns in _SHELVES
    for adjective in adjectives.split()
    for noun in nouns.split()
)


class _World:
    """Computes the names of the k-th user and the k-th product of a seed, and keeps none of them."""

    def __init__(self, seed: int) -> None:
        self._mark = _base36(seed)
        self._key = _scrambled(seed)

    def user(self, k: int) -> tuple[str, _Person]:
        """Return the username and the person of the k-th user."""
        person = _PEOPLE[_scrambled(self._key + 2 * k) % len(_PEOPLE)]
        return f"{person.login}.{self._mark}.{k}", person

    def product(self, k: int) -> tuple[str, _Article, int]:
        """Return the sku and the article of the k-th product, and a pseudorandom number for it."""
        chance, which = divmod(_scrambled(self._key + 2 * k + 1), len(_ARTICLES))
        article = _ARTICLES[which]
        return f"{article.prefix}-{self._mark.upper()}-{k}", article, chance


class Workload(Iterator[Submission]):
    """An endless iterator over the jobs that *seed* and *mix* determine; `itertools.islice` takes the first of them.

    If the mix creates users (products), the jobs begin with one, and orders and changes name users (products) that come
    earlier; early products sell most. 1 % of the users are inactive and 4 % of the products out of stock, so some
    orders are rejected. If the mix creates none, users (products) are drawn from the ids 1 to 1000, whether or not the
    database has them. Raises `ValueError` for a mix that cannot be generated or a seed of more than 64 bits.
    """

    def __init__(self, seed: int, mix: Mapping[str, int] = DEFAULT_MIX) -> None:
        _check(mix)
        if not -(2**63) <= seed < 2**63:
            raise ValueError("a seed must be a whole number of at most 64 bits")
        self._seed = seed
        self._mix = {name: mix[name] for name in _KINDS if mix.get(name)}
        self._world = _World(seed)
        self._random = Random(_scrambled(seed)).random
        self._users = self._products = 0
        makers = (self._create_user, self._create_product, self._place_order, self._update_user, self._set_stock)
        self._makers = dict(zip(_KINDS, makers, strict=True))
        self._numbered_kinds = enumerate(self._kinds())

    @staticmethod
    def parse_mix(text: str) -> dict[str, int]:
        """Parse the shares of job types, such as `create_user=2,place_order=7`, and return them by job type.

        Raises `ValueError`, which says what is wrong and, if that helps, lists the job types.
        """
        mix: dict[str, int] = {}
        for part in text.split(","):
            name, equals, share = (word.strip() for word in part.partition("="))
            if not (name and equals):
                known = ", ".join(_KINDS)
                raise ValueError(f"a mix is written as create_user=2,place_order=7, of the job types {known}")
            if name in mix:
                raise ValueError(f"{name} occurs twice")
            if not _SHARE.fullmatch(share):
                raise ValueError(f"the share of {name} must be a whole number from 0 to 999999999")
            mix[name] = int(share)
        _check(mix)
        return mix

    def __next__(self) -> Submission:
        n, kind = next(self._numbered_kinds)
        return Submission(f"load-{self._seed}-{n}", kind, self._makers[kind](n), identity=True)

    def _kinds(self) -> Iterator[str]:
        """Yield names of job types without end: first those that others refer to, then random ones by their shares."""
        yield from (kind for kind in ("create_user", "create_product") if kind in self._mix)
        kinds, bounds = list(self._mix), list(accumulate(self._mix.values()))
        total, last = bounds[-1], len(bounds) - 1
        while True:
            yield kinds[bisect(bounds, self._random() * total, 0, last)]

    # Each of these methods returns the fields of a job of the type it is named after; its argument is the job's number.
    def _create_user(self, _: int) -> dict[str, object]:
        k, self._users = self._users, self._users + 1
        username, person = self._world.user(k)
        email = f"{username}@{_MAIL_DOMAINS[k % len(_MAIL_DOMAINS)]}"
        fields: dict[str, object] = {"username": username, "email": email, "full_name": person.full_name}
        if k % _USERS_PER_INACTIVE == _USERS_PER_INACTIVE // 2:
            fields["is_active"] = False
        return fields

    def _create_product(self, _: int) -> dict[str, object]:
        k, self._products = self._products, self._products + 1
        sku, article, chance = self._world.product(k)
        fields: dict[str, object] = {
            "sku": sku,
            "name": f"{article.name} {k + 100}",
            "description": article.description,
            "price": article.price(chance),
            "category": article.category,
        }
        if k % _PRODUCTS_PER_OUT_OF_STOCK == _PRODUCTS_PER_OUT_OF_STOCK // 2:
            fields["in_stock"] = False
        return fields

    def _place_order(self, _: int) -> dict[str, object]:
        quantity = _QUANTITIES[int(self._random() * len(_QUANTITIES))]
        return {**self._some_user(), **self._some_product(), "quantity": quantity}

    def _update_user(self, n: int) -> dict[str, object]:
        fields, chance = self._some_user(), self._random()
        if chance < 0.4:  # noqa: PLR2004
            return {**fields, "full_name": _PEOPLE[n % len(_PEOPLE)].full_name}
        if chance < 0.8:  # noqa: PLR2004
            return {**fields, "email": f"changed.{_base36(self._seed)}.{n}@example.net"}
        return {**fields, "is_active": chance < 0.99}  # noqa: PLR2004

    def _set_stock(self, _: int) -> dict[str, object]:
        return {**self._some_product(), "in_stock": self._random() < 0.8}  # noqa: PLR2004

    def _some_user(self) -> dict[str, object]:
        if "create_user" not in self._mix:
            return {"user_id": 1 + int(self._random() * _FOREIGN_IDS)}
        return {"username": self._world.user(int(self._random() * self._users))[0]}

    def _some_product(self) -> dict[str, object]:
        """Return the id or sku of a random product as a field.

        Early products are more popular: the first 20 % get nearly 60 % of the orders.
        """
        chance = self._random()
        skewed = chance * chance * chance
        if "create_product" not in self._mix:
            return {"product_id": 1 + int(skewed * _FOREIGN_IDS)}
        return {"sku": self._world.product(int(skewed * self._products))[0]}


def _check(mix: Mapping[str, int]) -> None:
    for name, share in mix.items():
        if name not in _KINDS:
            raise ValueError(f"{name!r} is not a job type that can be generated: these are {', '.join(_KINDS)}")
        if share < 0:
            raise ValueError(f"the share of {name} is negative")
    if not sum(mix.values()):
        raise ValueError(f"a mix needs a share above 0 of one or more of {', '.join(_KINDS)}")


def _scrambled(number: int) -> int:
    """Return a pseudorandom 64-bit number that depends on *number* only (SplitMix64: Steele, Lea and Flood, 2014)."""
    bits = (number + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
    bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return bits ^ (bits >> 31)


def _base36(number: int) -> str:
    """Return *number* in base 36, which keeps the usernames of long seeds short."""
    digits, rest = "", abs(number)
    while rest:
        rest, digit = divmod(rest, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + digits
    return ("-" if number < 0 else "") + (digits or "0")
