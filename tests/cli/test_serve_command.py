"""What `serve` prints."""

import argparse

import pytest

from tidepool.cli.serve import _print_address


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("localhost", "http://localhost:8000/"),
        ("127.0.0.1", "http://127.0.0.1:8000/"),
        ("::1", "http://[::1]:8000/"),
        ("::", "http://[::]:8000/"),
        ("2001:db8::7", "http://[2001:db8::7]:8000/"),
    ],
)
def test_an_address_of_ipv6_has_brackets(
    capsys: pytest.CaptureFixture[str], host: str, url: str, *, as_json: bool
) -> None:
    """As in every URL: without them its last part would be the port."""
    _print_address(argparse.Namespace(host=host, port=8000, json=as_json), about="")
    assert (f'"{url}"' if as_json else f"serving on {url}\n") in capsys.readouterr().out
