"""What a command prints: tables for people, or exactly one JSON document for programs.

Results go to stdout, everything else (notes, progress, logs, errors) to stderr, so that `keyanon ... --json | jq` always
works. Names, purposes and file names come from other people; control characters in them are made visible before they
reach a terminal, so that a requester can not repaint the text an approver is about to sign.
"""

import json
import logging
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from keystore.decisions.plain_text import visible

NOT_A_TERMINAL_COLUMNS: Final = 160  # columns of a table that is piped or redirected: ids stay on one line
BYTES_PER_UNIT: Final = 1024
_BYTE_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB")

logger = logging.getLogger("keyanon")


def format_bytes(count: int) -> str:
    """A size in bytes for people: `812 B`, `1.4 MiB`."""
    size = float(count)
    for unit in _BYTE_UNITS:
        if size < BYTES_PER_UNIT or unit == _BYTE_UNITS[-1]:
            return f"{count} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= BYTES_PER_UNIT
    raise AssertionError("unreachable: the last unit always returns")


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """A table whose cells are shown literally: no markup, no terminal escapes, nothing cut off."""
    result = Table(title=visible(title), title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        result.add_column(name, overflow="fold")
    for row in rows:
        result.add_row(*(Text(visible("-" if cell is None else cell)) for cell in row))
    return result


def facts(title: str, values: Mapping[str, object]) -> Table:
    """Name and value, one pair a line."""
    result = Table(title=visible(title), title_justify="left", box=None, show_header=False, pad_edge=False)
    result.add_column(style="bold")
    result.add_column(overflow="fold")
    for name, value in values.items():
        result.add_row(name, Text(visible("-" if value is None else value)))
    return result


class Output:
    """Where one command writes; made by `main`, set up by the options `--json` and `-v`, found in the context as `obj`."""

    def __init__(self) -> None:
        self.as_json = False
        self.verbose = False

    def result(self, document: Mapping[str, Any], *renderables: Table | str) -> None:
        """Print the command's result: `document` with `--json`, else the renderables in turn."""
        if self.as_json:
            sys.stdout.write(json.dumps(document, default=_plain, ensure_ascii=False, indent=2) + "\n")
            return
        width = None if sys.stdout.isatty() else NOT_A_TERMINAL_COLUMNS
        console = Console(file=sys.stdout, width=width, highlight=False, markup=False, emoji=False)
        for item in renderables:
            if isinstance(item, str):
                sys.stdout.write(visible(item) + "\n")
            else:
                console.print(item)

    def table_note(self, shown: Table) -> None:
        """A table for the person at the terminal, on stderr."""
        width = None if sys.stderr.isatty() else NOT_A_TERMINAL_COLUMNS
        Console(file=sys.stderr, width=width, highlight=False, markup=False, emoji=False).print(shown)

    def note(self, message: str) -> None:
        """One line for the person at the terminal, on stderr."""
        sys.stderr.write(visible(message) + "\n")

    def failure(self, error: BaseException, message: str, exit_code: int) -> None:
        """Say why the command ends: on stderr always, on stdout too as the one document when `--json` was asked."""
        self.note(f"keyanon: {message}")
        if self.as_json:
            document = {"error": type(error).__name__, "message": message, "exit_code": exit_code}
            sys.stdout.write(json.dumps(document, ensure_ascii=False, indent=2) + "\n")
        if self.verbose:
            logger.debug("the error came from here", exc_info=error)


def _plain(value: object) -> object:
    """JSON's view of the few types that reports hold beside JSON's own."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, frozenset | set | tuple):
        return sorted(value) if isinstance(value, frozenset | set) else list(value)
    raise TypeError(f"{type(value).__name__} has no JSON form here; add it to the report as text or a number")
