"""The image and the compose file as they are written, for the tests that look at them."""

from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def text(name: str) -> str:
    """Read a file of the checkout without its comments."""
    lines = (ROOT / name).read_text("utf-8").splitlines()
    return "\n".join(line.rstrip() for line in lines if line.strip() and not line.lstrip().startswith("#"))


def compose() -> dict[str, Any]:
    """Read as much YAML as the compose file uses: no parser is among the dependencies."""
    return _mapping(text("docker-compose.yml").splitlines(), {})


def _mapping(lines: list[str], anchors: dict[str, Any]) -> dict[str, Any]:
    """Return a mapping's keys with nested mappings; every other value stays the text that it is."""
    found: dict[str, Any] = {}
    while lines:
        key, _, value = lines[0].strip().partition(":")
        value = value.strip()
        depths = [_depth(line) for line in lines]
        end = next((n for n, depth in enumerate(depths) if n and depth <= depths[0]), len(lines))
        body, lines = lines[1:end], lines[end:]
        if key == "<<":
            found |= anchors[value.removeprefix("*")]
        elif body and not body[0].lstrip().startswith("- ") and (not value or value.startswith("&")):
            anchors[value.removeprefix("&")] = found[key] = _mapping(body, anchors)
        else:
            found[key] = "\n".join([value, *body])
    return found


def _depth(line: str) -> int:
    return len(line) - len(line.lstrip())


def service(name: str) -> dict[str, Any]:
    """Return one service of the compose file, with what is merged into it."""
    return compose()["services"][name]
