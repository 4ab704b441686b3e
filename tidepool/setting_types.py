"""The types of settings whose values are not plain numbers or words: how their text is checked and converted."""

import ipaddress
from itertools import pairwise
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_settings import NoDecode

_MIN_PAIRS = 10
"""Min pairs of adjacent characters: `sesame-open-sesame` has 11, `passwordpassword` 7, 24 random bytes in hex about 40.
"""


def _shares(text: object) -> object:
    """Parse `function=share,…` into a dict; return a value that is not text unchanged."""
    if not isinstance(text, str):
        return text
    pairs = [pair.partition("=") for pair in text.split(",")]
    if len({name for name, _, _ in pairs}) < len(pairs) or not all(name.strip() for name, _, _ in pairs):
        raise ValueError("must list functions with their shares, each once, as in place_order=0.5,create_user=0.25")
    return {name.strip(): share.strip() for name, _, share in pairs}


def _require_ascii(password: SecretStr) -> SecretStr:
    if not (password.get_secret_value().isascii() and password.get_secret_value().isprintable()):
        raise ValueError("must consist of printable ASCII characters")
    return password


def _require_strong(token: SecretStr) -> SecretStr:
    """Raise `ValueError` for a token that is easy to guess: with fewer than ten different pairs of adjacent characters.

    Pairs of equal or consecutive characters, as in aaaa or 1234, do not count.
    """
    text = _require_ascii(token).get_secret_value()
    if " " in text:
        raise ValueError("must not contain a blank: a header cannot carry it")
    pairs = {pair for pair in pairwise(text) if abs(ord(pair[0]) - ord(pair[1])) > 1}
    if len(pairs) < _MIN_PAIRS:
        raise ValueError("is too easy to guess: use the output of `openssl rand -hex 24`")
    return token


def _networks(text: object) -> object:
    """Parse `address,network,…` into a tuple; return a value that is not text unchanged."""
    if not isinstance(text, str):
        return text
    try:
        return tuple(ipaddress.ip_network(part.strip()) for part in text.split(","))
    except ValueError:
        raise ValueError("must be addresses or networks, as in 10.0.0.7,192.168.4.0/24,fd00::/8") from None


def _expanded(path: Path) -> Path:
    """Return *path* with `~` at its beginning replaced by the home directory, as a shell does."""
    try:
        return path.expanduser()
    except RuntimeError:
        raise ValueError("begins with ~, but this process has no such home directory") from None


Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Networks = Annotated[tuple[Network, ...], NoDecode, BeforeValidator(_networks)]
"""Text of the form `address,network,…`."""
_Share = Annotated[float, Field(gt=0, le=1)]
Shares = Annotated[dict[str, _Share], NoDecode, BeforeValidator(_shares)]
"""Text of the form `function=share,…`."""
Password = Annotated[SecretStr, AfterValidator(_require_ascii)]
Token = Annotated[SecretStr, Field(min_length=16), AfterValidator(_require_strong)]
Directory = Annotated[Path, AfterValidator(_expanded)]
