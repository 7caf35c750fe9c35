"""Whether the pictures that a user's files name are pictures of the run: a mistyped name would leave a face as it is."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from jobs.errors import SourceError

NAMES_SHOWN: Final = 3  # of unknown pictures in a message


@dataclass(frozen=True)
class UnlistedNames:
    """Pictures that a file says something of and that are not in the listing. example: a name that is."""

    path: Path
    names: list[str]
    example: str

    @classmethod
    def of(cls, path: Path, names: Iterable[str], known: Collection[str]) -> Self:
        """Compare the names in a file with those in the listing."""
        return cls(path, [name for name in names if name not in known], min(known, default="a.jpg"))

    def check(self, standing: Collection[str] | None = None) -> None:
        """Raise SourceError for any. standing: ids of the rows that stand, which may be named."""
        if unknown := [name for name in self.names if name not in (standing or ())]:
            kept = ", or let rows of pictures that are gone stay by --gone keep" if standing is None else ""
            shown = ", ".join(repr(name) for name in unknown[:NAMES_SHOWN])
            raise SourceError(
                f"{self.path} says something of {len(unknown)} pictures that are not in the input ({shown}"
                f"{', ...' if len(unknown) > NAMES_SHOWN else ''}); names are paths below the folder of pictures, such as "
                f"{self.example!r}; mend them, or take their lines out of the file{kept}"
            )
