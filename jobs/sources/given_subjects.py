"""Whose picture is which, said in a file beside a folder or tar shards: what is erased together."""

import csv
import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from jobs.errors import SourceError
from jobs.sources.box_files import MAX_FILE_BYTES
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
    try:
        if (size := path.stat().st_size) > MAX_FILE_BYTES:
            raise SourceError(
                f"{path} has {size} bytes, more than the {MAX_FILE_BYTES} that a file of subjects may have"
            )
        content = path.read_bytes()
        text = content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{path} can not be read as a file of subjects ({error}); give CSV in UTF-8") from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    by_id: dict[str, str] = {}
    try:
        if tuple(name.strip() for name in next(reader, [])) != COLUMNS:
            raise SourceError(f"{path}, line 1: the header must be {','.join(COLUMNS)}")
        for cells in filter(None, reader):
            place = f"{path}, line {reader.line_num}"
            if len(cells) != len(COLUMNS) or not cells[0]:
                raise SourceError(f"{place}: must be a picture's name and its subject")
            name, subject = cells
            if not 0 < len(subject) <= MAX_NAME_CHARACTERS:
                raise SourceError(f"{place}: a subject must have 1 to {MAX_NAME_CHARACTERS} characters")
            if by_id.setdefault(name, subject) != subject:
                raise SourceError(f"{place}: {name!r} has another subject above; a key can be under one alone")
    except csv.Error as error:
        raise SourceError(f"{path}, line {reader.line_num}: not CSV ({error})") from error
    return SubjectFile(path, by_id, hashlib.sha256(content).hexdigest())
