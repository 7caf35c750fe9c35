"""Whose picture is which, said in a file beside a folder or tar shards: what is erased together."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from jobs.errors import SourceError
from jobs.sources.csv_files import CsvFile
from keystore.intake.records import MAX_NAME_CHARACTERS

COLUMNS: Final = ("file", "subject")


@dataclass(frozen=True)
class SubjectFile:
    """A file of subjects. by_id: of each picture that has one. digest: sha256 of the file."""

    path: Path
    by_id: Mapping[str, str]
    digest: str


def read_subjects(path: Path) -> SubjectFile:
    """Read CSV of `file,subject` lines. Raises SourceError: it can not be read, or has a bad line, which is named."""
    file = CsvFile.read(path, "a file of subjects")
    lines = file.lines()
    place, header = next(lines, (f"{path}, line 1", []))
    if tuple(name.strip() for name in header) != COLUMNS:
        raise SourceError(f"{place}: the header must be {','.join(COLUMNS)}")
    by_id: dict[str, str] = {}
    for place, cells in lines:
        if len(cells) != len(COLUMNS) or not cells[0]:
            raise SourceError(f"{place}: must be a picture's name and its subject")
        name, subject = cells
        if not 0 < len(subject) <= MAX_NAME_CHARACTERS:
            raise SourceError(f"{place}: a subject must have 1 to {MAX_NAME_CHARACTERS} characters")
        if by_id.setdefault(name, subject) != subject:
            raise SourceError(f"{place}: {name!r} has another subject above; a key can be under one alone")
    return SubjectFile(path, by_id, file.digest)
