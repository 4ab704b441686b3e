"""Finds the IP address and scheme of a request's caller, also behind trusted proxies, and limits its rate.

`X-Forwarded-For` and `X-Forwarded-Proto` are used only if they come from a proxy that is named in
FRONT_TRUSTED_PROXIES; loopback addresses are not trusted either unless they are named there. `Forwarded` (RFC 7239) is
not read: a proxy that does not set it would pass on what a caller wrote in it. For the same reason a trusted proxy has
to set or remove `X-Forwarded-Proto`.
"""

import functools
import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from starlette.types import Scope

from tidepool.setting_types import Network

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_MAX_CHARACTERS = 64
"""An address with its port has fewer."""
_SCHEMES = ("http", "https")
_MAX_CALLERS = 10_000
"""Max callers that are remembered. The least recent is forgotten first: its bucket would be full again anyway."""


class Callers:
    """Finds the IP address and scheme of the client of each request. *proxies* are the networks of trusted proxies."""

    def __init__(self, proxies: Sequence[Network] = ()) -> None:
        self._proxies = proxies

    def find(self, scope: Scope) -> None:
        """Set client and scheme in the ASGI *scope* to those of the caller, if a trusted proxy sent the request.

        A trusted proxy reports them in the headers `X-Forwarded-For` and `X-Forwarded-Proto`.
        """
        if not self._proxies or not self._is_proxy(peer := _address(_peer(scope))):
            return
        caller = peer
        for hop in reversed(_values(scope, b"x-forwarded-for")):
            address = _address(hop)
            if address is None:
                break  # what stands before it comes from the same hop, which is not trusted
            caller = address
            if not self._is_proxy(address):
                break
        scope["client"] = (str(caller), 0)
        schemes = _values(scope, b"x-forwarded-proto")
        if schemes and schemes[-1].lower() in _SCHEMES:
            scope["scheme"] = schemes[-1].lower()

    @staticmethod
    def key(scope: Scope) -> str:
        """Return the text by which the requests of one caller are counted.

        It is the caller's IPv4 address, or the /64 network of its IPv6 address.
        """
        return _key(_peer(scope))

    def _is_proxy(self, address: _Address | None) -> bool:
        return address is not None and any(address in network for network in self._proxies)


class Rates:
    """A rate limiter: admits *per_second* requests a second from each caller, by a token bucket for each.

    A caller may send *burst_s* seconds' worth of requests at once. The memory is bounded, however many callers come.
    """

    def __init__(self, per_second: float, *, burst_s: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._cost_s = 1 / per_second
        self._burst_s = burst_s
        self._clock = clock
        self._full_at_s: OrderedDict[str, float] = OrderedDict()
        """The bucket as one number: when it will be full again."""

    def has_one(self, caller: str) -> bool:
        """Return whether *caller* may send a request now. Does not count a request."""
        return self._after(caller) is not None

    def admit(self, caller: str) -> bool:
        """Count a request of *caller* and return True; return False if it is over the rate."""
        full_at_s = self._after(caller)
        if full_at_s is None:
            return False
        self._full_at_s[caller] = full_at_s
        self._full_at_s.move_to_end(caller)
        if len(self._full_at_s) > _MAX_CALLERS:
            self._full_at_s.popitem(last=False)
        return True

    def _after(self, caller: str) -> float | None:
        now_s = self._clock()
        full_at_s = max(self._full_at_s.get(caller, now_s), now_s) + self._cost_s
        return None if full_at_s - now_s > self._burst_s else full_at_s


@functools.lru_cache(maxsize=4096)
def _key(text: str) -> str:
    address = _address(text)
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.IPv6Network((int(address) >> 64 << 64, 64)))
    return str(address or "unknown")


def _peer(scope: Scope) -> str:
    client: Any = scope.get("client")
    return client[0] if client else ""


def _values(scope: Scope, name: bytes) -> list[str]:
    """Return the members of a header's list in their order; the header may be given several times."""
    headers: Iterable[tuple[bytes, bytes]] = scope["headers"]
    return [member.strip() for key, value in headers if key == name for member in value.decode("latin-1").split(",")]


def _address(text: str) -> _Address | None:
    """Return the address in *text*, which may have a port; None if it is no address.

    An IPv4 address that is written as an IPv6 one (`::ffff:10.0.0.7`) is returned as IPv4.
    """
    if not 0 < len(text) <= _MAX_CHARACTERS:
        return None
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
