"""The drill's proxies: where a server listens, and its URL by way of one."""

import pytest

from lab.drill.addresses import target, through
from tidepool.cli.terminal import CommandError


@pytest.mark.parametrize(
    ("url", "listens", "by_proxy"),
    [
        (
            "postgresql://me:se%20cret@db.example:5433/shop",
            "db.example:5433",
            "postgresql://me:se%20cret@127.0.0.1:7000/shop?sslmode=disable",
        ),
        ("postgres://db.example/shop", "db.example:5432", "postgres://127.0.0.1:7000/shop?sslmode=disable"),
        (
            "postgresql://postgres@/tidepool?host=/run/pg&port=5432",
            "/run/pg/.s.PGSQL.5432",
            "postgresql://postgres@127.0.0.1:7000/tidepool?sslmode=disable",
        ),
        ("redis://:secret@cache/5", "cache:6379", "redis://:secret@127.0.0.1:7000/5"),
        ("unix:///run/redis.sock?db=3", "/run/redis.sock", "redis://127.0.0.1:7000/3"),
    ],
)
def test_a_url_by_way_of_a_proxy(url: str, listens: str, by_proxy: str) -> None:
    """User, password and database stay; the host is a proxy of the drill's."""
    assert listens == target(url)
    assert by_proxy == through(url, 7000)


@pytest.mark.parametrize(
    "url",
    [
        "rediss://cache/0",
        "postgresql://db/shop?sslmode=verify-full",
        "postgresql://one,two/shop",
        "postgresql:///shop?host=one,two",
    ],
)
def test_what_the_drill_cannot_look_into(url: str) -> None:
    """TLS, and more than one server."""
    with pytest.raises(CommandError):
        target(url)
