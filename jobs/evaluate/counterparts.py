"""The other pictures of a source: published by a run, or lying in a folder under the same name."""

from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Self
from urllib.parse import quote

from jobs.errors import SourceError
from jobs.names import suffix_of
from jobs.output.pictures import PublishedPictures
from jobs.output.reader import OutputError, Row, read_rows
from jobs.sources.source import PICTURE_SUFFIXES, listing_digest
from jobs.storage.store import Store
from keyanon_core.errors import PictureError


class Counterparts(ABC):
    """Finds a picture by its source's id. Travels to the workers."""

    @abstractmethod
    def has(self, image_id: str) -> bool:
        """Whether there is one."""

    @abstractmethod
    def read(self, image_id: str) -> bytes:
        """The encoded picture. Raises PictureError ("unreadable"), MachineError."""

    @abstractmethod
    def digest(self) -> str:
        """sha256 over what tells these pictures from others in the same place."""

    def among(self, ids: Collection[str]) -> "Counterparts":
        """The same, of these sources: what has the very name of one of them is no other one's."""
        return self

    @abstractmethod
    def of_none(self, ids: Collection[str]) -> list[str]:
        """The names of those that are of none of these sources: nobody measures them."""

    def made_of(self, image_id: str) -> int | None:
        """The `version_of` the file that a picture was made of; None where nobody wrote it down."""
        return None


@dataclass(frozen=True)
class OfRun(Counterparts):
    """What a run published. rows: of its pictures, by their ids."""

    store: Store
    rows: Mapping[str, Row] = field(repr=False)
    unpublished: Mapping[str, int]
    """How many rows have no picture, by their status; `repeated id` counts those whose picture may be another row's."""

    @classmethod
    def of(cls, store: Store) -> Self:
        """Raises OutputError."""
        published: dict[str, Row] = {}
        unpublished: Counter[str] = Counter()
        ids, pictures = Counter[str](), Counter[str]()
        for row in read_rows(store):
            ids[row.image_id] += 1
            # Pictures without a face are published with `--no-face pass`: what was missed in them is to be counted too.
            if row.status == "anonymized" or row.output is not None:
                published[row.image_id] = row
                pictures[row.image_id] += 1
            else:
                unpublished[row.status] += 1
        for repeated in (image_id for image_id, count in ids.items() if count > 1 and image_id in published):
            del published[repeated]
            unpublished["repeated id"] += pictures[repeated]
        return cls(store, published, dict(unpublished))

    def has(self, image_id: str) -> bool:
        return image_id in self.rows

    def read(self, image_id: str) -> bytes:
        try:
            return self._pictures.picture(self.rows[image_id])
        except OutputError as error:
            raise PictureError("unreadable", str(error)) from error

    def digest(self) -> str:
        return listing_digest(f"{image_id}\0{row.record_id}\0{row.output}" for image_id, row in self.rows.items())

    def of_none(self, ids: Collection[str]) -> list[str]:
        return [image_id for image_id in self.rows if image_id not in ids]

    def made_of(self, image_id: str) -> int | None:
        return self.rows[image_id].source_version

    @cached_property
    def _pictures(self) -> PublishedPictures:
        return PublishedPictures(self.store)

    def __reduce__(self) -> tuple[object, ...]:  # what is open does not travel
        return type(self), (self.store, self.rows, self.unpublished)


@dataclass(frozen=True)
class OfFolder(Counterparts):
    """Pictures of any tool. names: of files by what they may be a picture of, see `_known_as`. listing: digest of names and
    sizes."""

    store: Store
    names: Mapping[str, tuple[str, ...]] = field(repr=False)
    max_bytes: int
    listing: str

    @classmethod
    def of(cls, store: Store, max_bytes: int) -> Self:
        """List a folder and those below it. Raises SourceError where no picture lies there, OSError, MachineError."""
        names: defaultdict[str, list[str]] = defaultdict(list)
        listed = [(name, size) for name, size in store.sizes("") if suffix_of(name) in PICTURE_SUFFIXES]
        for name, _ in listed:
            for called in _known_as(name):
                names[called].append(name)
        if not names:
            raise SourceError(f"{store} holds no picture; is this the right folder?")
        digest = listing_digest(f"{name}\0{size}" for name, size in sorted(listed))
        return cls(store, {called: tuple(found) for called, found in names.items()}, max_bytes, digest)

    def has(self, image_id: str) -> bool:
        return bool(self._files(image_id))

    def among(self, ids: Collection[str]) -> "OfFolder":
        names = {
            called: tuple(name for name in found if name == called or name not in ids)
            for called, found in self.names.items()
        }
        return replace(self, names=names)

    def digest(self) -> str:
        return self.listing

    def of_none(self, ids: Collection[str]) -> list[str]:
        taken = {name for image_id in ids for name in self._files(image_id)}
        return sorted({name for found in self.names.values() for name in found} - taken)

    def read(self, image_id: str) -> bytes:
        files = self._files(image_id)
        if len(files) != 1:
            listed = ", ".join(files) or "none"
            raise PictureError("unreadable", f"{self.store} must hold one picture of {image_id}, and holds {listed}")
        try:
            return self.store.read(files[0], self.max_bytes)
        except OSError as error:
            raise PictureError(
                "unreadable", f"{self.store.full(files[0])} can not be read ({error.strerror})"
            ) from error

    def _files(self, image_id: str) -> tuple[str, ...]:
        """The files that may be this picture; of the same name before those of another suffix."""
        for called in (image_id, quote(image_id, safe=" ()+,=@"), _stem(image_id)):
            if found := self.names.get(called, ()):
                return (called,) if called in found else found
        return ()


def _known_as(name: str) -> Iterable[str]:
    """`a.jpg.png`, as a recovery writes, is `a.jpg`'s; `a.png` may be `a.jpg`'s."""
    return dict.fromkeys(
        (name, _stem(name), _stem(_stem(name)) if suffix_of(_stem(name)) in PICTURE_SUFFIXES else name)
    )


def _stem(name: str) -> str:
    return name.removesuffix(name[len(name) - len(suffix_of(name)) :]) if suffix_of(name) else name
