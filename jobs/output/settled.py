"""Which key shards a run has seen taken in, so that receipts may go: `OUT/_keyanon/settled/<number>.json`, written once each.

A run that is done again, or goes on over a source that has grown, asks for receipts of its other shards only.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Self

from jobs.errors import LeaseError, PublishError
from jobs.output.layout import SETTLED
from jobs.storage.json_files import to_json
from jobs.storage.store import Store

_SUFFIX: Final = ".json"


@dataclass
class Settled:
    """names: of the key shards. count: of the files that list them."""

    store: Store
    names: set[str]
    count: int

    @classmethod
    def read(cls, store: Store) -> Self:
        """What earlier attempts saw. Raises PublishError for a damaged file, OSError, MachineError."""
        found = cls(store, set(), 0)
        files = [f"{SETTLED}/{file}" for file in store.children(SETTLED, _SUFFIX)]
        for name, content in zip(files, store.read_all(files), strict=True):
            found.names.update(_parsed(content, store.full(name)))
            found.count += 1
        return found

    def add(self, names: Iterable[str]) -> None:
        """Remember those that are new, durably. Raises LeaseError: another attempt does; OSError, MachineError."""
        fresh = sorted(set(names) - self.names)
        if not fresh:
            return
        self.store.make_folder(SETTLED)
        try:
            self.store.create(f"{SETTLED}/{self.count:012d}{_SUFFIX}", to_json({"key_shards": fresh}))
        except FileExistsError as error:
            raise LeaseError(f"another attempt goes on with {self.store}; this one settles nothing more") from error
        self.names.update(fresh)
        self.count += 1


def _parsed(content: bytes | None, name: str) -> list[str]:
    try:
        names = json.loads(content or b"")["key_shards"]
        if not all(isinstance(one, str) for one in names):
            raise ValueError("it lists what is no name")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise PublishError(f"{name} is damaged ({type(error).__name__}); restore it from a backup") from error
    return list(names)
