"""`python -m tests.samples --seed 1`: texts of the product, drawn at random, for readers who have not seen the code.

Prints public docstrings and help texts of the command lines, each with its name and nothing else. The same seed draws
the same texts from the same code.
"""

import argparse
import ast
import random
import textwrap
from collections.abc import Iterator
from pathlib import Path

from lab.__main__ import command_line as lab_commands
from producer.__main__ import command_line as producer_commands
from tidepool.cli.operators import command_line as operators_commands

ROOT = Path(__file__).parents[1]
PRODUCT = ("tidepool", "worker", "producer")
_WIDTH = 100
"""Columns of a printed text."""

Text = tuple[str, str]
"""A name, and the text that belongs to it."""


def docstrings() -> Iterator[Text]:
    """Yield the docstrings of all public modules, classes, functions and methods of the product."""
    for path in sorted(path for package in PRODUCT for path in (ROOT / package).rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if not name.endswith("__main__"):
            yield from _documented(name, ast.parse(path.read_text("utf-8")))


def _documented(name: str, node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[Text]:
    if text := ast.get_docstring(node):
        yield name, text
    for child in node.body if isinstance(node, ast.Module | ast.ClassDef) else ():
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not child.name.startswith("_"):
            yield from _documented(f"{name}.{child.name}", child)


def help_texts() -> Iterator[Text]:
    """Yield the help text of every option of every command, and the description of every command."""
    lines = (operators_commands("tidepool"), producer_commands(), lab_commands())
    for parser in (parser for line in lines for parser in line.parsers.values()):
        paragraphs = (parser.description or "").split("\n\n")
        yield parser.prog, "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
        for action in parser._actions:
            if action.dest not in ("help", "json"):
                choices = f"{{{','.join(map(str, action.choices))}}}" if action.choices else ""
                shown = " ".join((*action.option_strings[:1], str(action.metavar or choices)))
                yield f"{parser.prog} {shown}".strip(), action.help or ""


def main() -> None:
    """Print the texts that the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.samples", description=__doc__)
    parser.add_argument(
        "--seed", type=int, default=1, metavar="S", help="seed of the random choice of texts (default 1)"
    )
    parser.add_argument(
        "--count", type=int, default=20, metavar="N", help="max number of texts of each kind (default 20)"
    )
    arguments = parser.parse_args()
    chosen = random.Random(arguments.seed)
    for title, texts in (("Docstrings", list(docstrings())), ("Help texts", list(help_texts()))):
        print(f"# {title}: {arguments.count} of {len(texts)}\n")
        for name, text in chosen.sample(texts, min(arguments.count, len(texts))):
            lines = (textwrap.fill(line, _WIDTH, break_long_words=False) for line in text.split("\n"))
            print(f"{name}\n{textwrap.indent(chr(10).join(lines), '    ')}\n")


if __name__ == "__main__":
    main()
