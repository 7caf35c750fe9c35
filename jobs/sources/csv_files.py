"""CSV that users put beside their pictures: a header, and a line for each picture."""

import csv
import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from jobs.errors import SourceError
from jobs.sources.box_files import MAX_FILE_BYTES


@dataclass(frozen=True)
class CsvFile:
    """digest: sha256 of the file."""

    path: Path
    text: str
    digest: str

    @classmethod
    def read(cls, path: Path, what: str) -> "CsvFile":
        """what: for messages. Raises SourceError."""
        try:
            if (size := path.stat().st_size) > MAX_FILE_BYTES:
                raise SourceError(f"{path} has {size} bytes, more than the {MAX_FILE_BYTES} that {what} may have")
            content = path.read_bytes()
            return cls(path, content.decode("utf-8-sig"), hashlib.sha256(content).hexdigest())
        except (OSError, UnicodeDecodeError) as error:
            raise SourceError(f"{path} can not be read as {what} ({error}); give CSV in UTF-8") from error

    def lines(self) -> Iterator[tuple[str, list[str]]]:
        """The cells of each line that is not empty, the header among them, behind its place. Raises SourceError."""
        reader = csv.reader(io.StringIO(self.text, newline=""), strict=True)
        try:
            for cells in filter(None, reader):
                yield f"{self.path}, line {reader.line_num}", cells
        except csv.Error as error:
            raise SourceError(f"{self.path}, line {reader.line_num}: not CSV ({error})") from error
