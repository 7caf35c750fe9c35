"""The protocol's pictures, in the order of their makers' lists: LFW's matched pairs, and CelebA-HQ by number."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from jobs.errors import SourceError
from jobs.names import as_text, suffix_of
from jobs.sources.source import PICTURE_SUFFIXES
from jobs.storage.store import Store
from keyanon_core.evaluation.paper.tables import CELEBA_PART, DataSet

LFW: Final[DataSet] = "lfw"
CELEBA_HQ: Final[DataSet] = "celeba-hq"
MAX_LIST_BYTES: Final = 16 * 1024 * 1024
_NUMBER: Final = re.compile(r"[0-9]{1,9}")
_NUMBERED: Final = re.compile(r"[^0-9]*([0-9]{1,9})")  # 00017, 17, img00017


@dataclass(frozen=True)
class Sample:
    """A picture that is anonymized. part: of its data set. person: a number for who is seen; of CelebA-HQ nobody says. picture,
    other: their names below the folder of the data set; the other one is LFW's first of the pair. size: bytes of all."""

    data_set: DataSet
    image_id: str
    part: int
    person: int
    picture: str
    other: str | None
    size: int


@dataclass(frozen=True)
class Pair:
    """Two numbered pictures of one person. line: where it stands, for messages."""

    person: str
    first: int
    second: int
    line: str


def lfw_samples(store: Store, lists: Sequence[Path]) -> list[Sample]:
    """The matched pairs of LFW's lists, whose second pictures are anonymized; those of two people in them are passed over.

    store: holds NAME_0001.jpg and the like, in folders or not. Raises SourceError naming a list and its line, MachineError.
    """
    pairs = [pair for path in lists for pair in matched_pairs(path)]
    if not pairs:
        raise SourceError(f"{', '.join(map(str, lists))} name no matched pair: lines of a name and two numbers")
    files = _by_stem(store)
    people: dict[str, int] = {}
    seen: dict[tuple[str, int, int], str] = {}
    samples = []
    for pair in pairs:
        key = pair.person, min(pair.first, pair.second), max(pair.first, pair.second)
        if key in seen:
            raise SourceError(f"{pair.line} names the pair of {seen[key]} again; give each pair once")
        seen[key] = pair.line
        found = []
        for number in (pair.first, pair.second):
            stem = f"{pair.person}_{number:04d}"
            if stem not in files:
                raise SourceError(f"{pair.line} names {stem}, and there is no such picture below {store}")
            found.append(files[stem])
        (other, first_size), (picture, second_size) = found
        person = people.setdefault(pair.person, len(people))
        image_id = f"{LFW}/{pair.person} {pair.first} {pair.second}"
        samples.append(Sample(LFW, image_id, 0, person, picture, other, first_size + second_size))
    return samples


def matched_pairs(path: Path) -> Iterator[Pair]:
    """Those of one list as LFW publishes them: pairs.txt, pairsDevTrain.txt, pairsDevTest.txt, or a list of such lines alone.

    The first line of LFW's says how many pairs there are, of each fold and each kind. Raises SourceError naming the line.
    """
    promised: int | None = None
    count = 0
    for at, fields in _lines(path):
        where = f"{path}, line {at}"
        if len(fields) <= 2 and not count and promised is None and all(_NUMBER.fullmatch(one) for one in fields):
            promised = int(fields[0]) * int(fields[-1] if len(fields) == 2 else 1)
            continue
        numbers = fields[1:] if len(fields) == 3 else fields[1::2]
        if len(fields) not in (3, 4) or not all(_NUMBER.fullmatch(one) and int(one) for one in numbers):
            raise SourceError(f"{where} is no pair of LFW: a name and two numbers, or two names with a number each")
        if len(fields) == 4:
            continue
        if int(fields[1]) == int(fields[2]):
            raise SourceError(f"{where} names one picture twice; a pair is of two")
        count += 1
        yield Pair(fields[0], int(fields[1]), int(fields[2]), where)
    if promised is not None and count != promised:
        raise SourceError(f"{path} says {promised} matched pairs in its first line and names {count}; it is not whole")


def celeba_samples(store: Store, listed: Path | None) -> list[Sample]:
    """The pictures of CelebA-HQ in the order of their numbers, or of a list of file names; in parts of CELEBA_PART.

    Raises SourceError naming a file or a line, MachineError.
    """
    sizes = {name: size for name, size in store.sizes("") if suffix_of(name) in PICTURE_SUFFIXES}
    if not sizes:
        raise SourceError(f"{store} holds no picture; is this the folder of CelebA-HQ's?")
    names = _by_number(store, sizes) if listed is None else _named(store, listed, sizes)
    return [
        Sample(CELEBA_HQ, as_text(f"{CELEBA_HQ}/{name}"), at // CELEBA_PART, at, name, None, sizes[name])
        for at, name in enumerate(names)
    ]


def _by_number(store: Store, sizes: dict[str, int]) -> list[str]:
    numbered: dict[int, str] = {}
    for name in sorted(sizes):
        found = _NUMBERED.fullmatch(_stem(name))
        if found is None:
            raise SourceError(
                f"{store}/{name} is called by no number; give the folder of CelebA-HQ's pictures alone, or a list of those meant"
            )
        if (number := int(found[1])) in numbered:
            raise SourceError(
                f"{store} holds {numbered[number]} and {name}, which are both number {number}; give one folder"
            )
        numbered[number] = name
    return [numbered[number] for number in sorted(numbered)]


def _named(store: Store, listed: Path, sizes: dict[str, int]) -> list[str]:
    names: dict[str, int] = {}
    for at, fields in _lines(listed):
        name = " ".join(fields)
        if name not in sizes:
            raise SourceError(f"{listed}, line {at} names {name}, and there is no such picture below {store}")
        if name in names:
            raise SourceError(f"{listed}, line {at} names {name} again, after line {names[name]}")
        names[name] = at
    if not names:
        raise SourceError(f"{listed} names no picture")
    return list(names)


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Number and fields of the lines that are not blank. Raises SourceError."""
    try:
        if path.stat().st_size > MAX_LIST_BYTES:
            raise SourceError(f"{path} is larger than {MAX_LIST_BYTES} bytes; it is no list")
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{path} can not be read ({error}); give a text file") from error
    for at, line in enumerate(text.splitlines(), 1):
        if fields := line.split():
            yield at, fields


def _by_stem(store: Store) -> dict[str, tuple[str, int]]:
    """Name and size of each picture by its own name without folder and suffix. Raises SourceError for two of one name."""
    found: dict[str, tuple[str, int]] = {}
    for name, size in store.sizes(""):
        if suffix_of(name) in PICTURE_SUFFIXES:
            stem = _stem(name)
            if stem in found:
                raise SourceError(f"{store} holds {found[stem][0]} and {name}; give a folder that holds LFW once")
            found[stem] = name, size
    if not found:
        raise SourceError(f"{store} holds no picture; is this the folder of LFW's?")
    return found


def _stem(name: str) -> str:
    return PurePosixPath(name).stem
