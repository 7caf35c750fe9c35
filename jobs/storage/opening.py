"""From the name of a place to the store that lies there."""

from pathlib import Path

from jobs.storage.local import LocalStore
from jobs.storage.place import Place
from jobs.storage.s3 import S3Store
from jobs.storage.store import Store


def open_store(place: Place, endpoint_url: str | None = None) -> Store:
    """The store of a local path or of `s3://bucket/prefix`; nothing is sent or made. endpoint_url: of another server than
    Amazon's; None takes it from the AWS settings. Raises ConfigError."""
    if isinstance(place, Path):
        return LocalStore(place.absolute())
    return S3Store.of(place, endpoint_url)
