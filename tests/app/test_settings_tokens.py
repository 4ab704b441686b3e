"""The HTTP front's token and its trusted proxies in the settings."""

import base64
import random

import pytest

from settings import SettingsError, load


def test_a_random_token_is_strong() -> None:
    """As `openssl rand -hex 24` and `-base64 18` print it; none of hundreds is refused."""
    for number in range(300):
        dice = random.Random(number)
        assert load({"FRONT_TOKEN": dice.randbytes(24).hex()}).front_token
        assert load({"FRONT_TOKEN": base64.b64encode(dice.randbytes(18)).decode()}).front_token


def test_a_weak_token_is_not_shown() -> None:
    """The line says how to make a better one."""
    with pytest.raises(SettingsError) as raised:
        load({"FRONT_TOKEN": "hunter2hunter2hunter2"})
    assert "FRONT_TOKEN: is too easy to guess: use the output of `openssl rand -hex 24`" == str(raised.value)


def test_trusted_proxies_are_addresses_and_networks() -> None:
    """An address is a network of one."""
    proxies = load({"FRONT_TRUSTED_PROXIES": "10.0.0.7, fd00::/8,192.168.4.0/24"}).front_trusted_proxies
    assert ["10.0.0.7/32", "fd00::/8", "192.168.4.0/24"] == [str(proxy) for proxy in proxies]


def test_a_token_that_no_caller_could_send_is_refused() -> None:
    """A header has no blanks in a token, and no other letters than ASCII's."""
    for token in ("sixteen letters or so", "sixteen-létters-or-so"):
        with pytest.raises(SettingsError, match=r"^FRONT_TOKEN: "):
            load({"FRONT_TOKEN": token})
