"""The report as files: one page to read, one JSON document, a CSV file for each list.

Names, purposes and image ids come from other people. The page escapes them (Jinja2), and a cell of a CSV file that a spreadsheet
would take for a formula begins with an apostrophe (OWASP, CSV injection).
"""

from __future__ import annotations

import csv
import io
import unicodedata
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from pydantic import BaseModel

from keystore.errors import StorageError
from keystore.reporting.processing import DatasetLine
from keystore.reporting.report import Disclosure, Erased, OfficerReport, Overdue, Refused
from keystore.storage import durable

TEMPLATE = "report.html.j2"
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠", "|", "%")
_HIDDEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


def as_files(report: OfficerReport) -> dict[str, str]:
    """Return the report as a page, a document and the lists, by file name."""
    return {
        "report.html": as_html(report),
        "report.json": report.model_dump_json(indent=2) + "\n",
        **as_csv(report),
    }


def write_report(report: OfficerReport, directory: Path) -> list[str]:
    """Write the report into a new directory that is closed to others; return the files' names. Raises StorageError."""
    contents = as_files(report)
    try:
        durable.make_directory(directory.absolute().parent)
        directory.mkdir(mode=0o700)
        durable.write_all_new(
            directory, [(name, text.encode()) for name, text in contents.items()], durable.SECRET_MODE
        )
    except FileExistsError:
        raise StorageError(f"{directory} exists, and no report is written over another; choose another") from None
    except OSError as error:
        raise StorageError(
            f"the report can not be written to {directory} ({error.strerror}); free space or mend the permissions"
        ) from error
    return sorted(contents)


def as_html(report: OfficerReport) -> str:
    """Return the report as one page that loads nothing."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["visible"] = visible
    template = environment.from_string(files(__package__ or "").joinpath(TEMPLATE).read_text(encoding="utf-8"))
    lists = [(name, list(kind.model_fields), _cells(kind, lines)) for name, kind, lines in _lists(report)]
    return template.render(report=report, lists=lists)


def as_csv(report: OfficerReport) -> dict[str, str]:
    """Return the lists as CSV (RFC 4180), by file name."""
    made = {}
    for name, kind, lines in _lists(report):
        stream = io.StringIO(newline="")
        writer = csv.writer(stream)
        writer.writerow(kind.model_fields)
        writer.writerows([guarded(cell) for cell in row] for row in _cells(kind, lines))
        made[f"{name}.csv"] = stream.getvalue()
    return made


def guarded(cell: str) -> str:
    """Return a cell that no spreadsheet takes for a formula."""
    return f"'{cell}" if cell.lstrip(" \xa0").startswith(_FORMULA) else cell


def visible(text: object) -> str:
    """Return a text with its control and format characters as escapes: none turns a line around or hides a part of it."""
    return "".join(
        one if unicodedata.category(one) not in _HIDDEN else one.encode("unicode_escape").decode() for one in str(text)
    )


def _lists(report: OfficerReport) -> list[tuple[str, type[BaseModel], Sequence[BaseModel]]]:
    return [
        ("datasets", DatasetLine, report.processing.datasets),
        ("disclosures", Disclosure, report.disclosures),
        ("refusals", Refused, report.refusals),
        ("overdue", Overdue, report.overdue),
        ("erasures", Erased, report.erasures),
    ]


def _cells(kind: type[BaseModel], lines: Sequence[BaseModel]) -> list[list[str]]:
    return [[_cell(getattr(line, name)) for name in kind.model_fields] for line in lines]


def _cell(value: object) -> str:
    if value is None:
        return ""
    return "; ".join(map(str, value)) if isinstance(value, list) else str(value)
