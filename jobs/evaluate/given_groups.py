"""Which groups the people in pictures belong to, said in a file: what hurts one group more than others is told of each."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from jobs.errors import SourceError
from jobs.sources.csv_files import CsvFile

FILE: Final = "file"  # the first column; each of the others is a trait
MAX_CHARACTERS: Final = 64  # of a trait's name, and of a group's
_OF_KEYS: Final = frozenset("[]=")  # which stand around them in the key of a figure


@dataclass(frozen=True)
class GroupFile:
    """traits: by the name of each, such as `gender`, the group of each picture that has one, by its id. digest: sha256 of the
    file."""

    traits: Mapping[str, Mapping[str, str]]
    digest: str


def read_groups(path: Path) -> GroupFile:
    """Read CSV of `file` and a column for each trait; an empty cell says nothing. Raises SourceError: it can not be read, or has
    a bad line, which is named."""
    file = CsvFile.read(path, "a file of groups")
    lines = file.lines()
    place, header = next(lines, (f"{path}, line 1", []))
    first, *names = (name.strip() for name in header or [""])
    if first != FILE or not names or len(set(names)) < len(names) or not all(map(_usable, names)):
        raise SourceError(
            f"{place}: the header must be {FILE} and a name for each trait, such as {FILE},gender,age; no two alike, of 1 to "
            f"{MAX_CHARACTERS} characters without any of {' '.join(sorted(_OF_KEYS))}"
        )
    traits: dict[str, dict[str, str]] = {name: {} for name in names}
    seen: set[str] = set()
    for place, (image_id, *cells) in lines:
        if len(cells) != len(names) or not image_id:
            raise SourceError(f"{place}: must be a picture's name and {len(names)} cells")
        if image_id in seen:
            raise SourceError(f"{place}: {image_id!r} is named above; give each picture one line")
        seen.add(image_id)
        for name, cell in zip(names, map(str.strip, cells), strict=True):
            if cell and not _usable(cell):
                raise SourceError(
                    f"{place}: {name} {cell[:MAX_CHARACTERS]!r} must have at most {MAX_CHARACTERS} characters, and none of "
                    f"{' '.join(sorted(_OF_KEYS))}"
                )
            if cell:
                traits[name][image_id] = cell
    return GroupFile(traits, file.digest)


def _usable(name: str) -> bool:
    return 0 < len(name) <= MAX_CHARACTERS and not _OF_KEYS & set(name) and name.isprintable()
