"""The public keys that a run is given: of a file on its machine, or from elsewhere, where a pin says which they must be."""

import errno
import hashlib
from pathlib import Path

from jobs.errors import ConfigError
from jobs.output.keys import alive
from jobs.storage.opening import open_store
from jobs.storage.place import Place, is_service, split_pin
from keystore.errors import StorageError, TamperedError
from keystore.intake.ingest_key import MAX_FILE_BYTES, IngestKey
from keystore.service.published_key import fetch_ingest_key


def read_ingest_key(place: Place, endpoint_url: str | None) -> IngestKey:
    """The key that `jobs.storage.place.as_ingest_key` named. What comes from elsewhere is asked for once, and is nothing unless
    its SHA-256 is the pin: who answers there must not choose who can open every face.

    Raises:
        ConfigError: something else is there, or nothing. MachineError: it can not be reached, or not now. Of a file
        StorageError, TamperedError.
    """
    if isinstance(place, Path):
        return IngestKey.read(place)
    address, pin = split_pin(place)
    if is_service(address):
        try:
            with alive():
                data = fetch_ingest_key(address)
        except StorageError as error:
            raise ConfigError(str(error)) from error
    else:
        data = _from_bucket(address, endpoint_url)
    if hashlib.sha256(data).hexdigest() == pin:
        return IngestKey.parse(data, address)
    try:
        IngestKey.parse(data, address)
    except TamperedError as error:
        raise ConfigError(f"what {address} answers with is no ingest key; mend the address") from error
    raise ConfigError(
        f"{address} has another ingest key than its pin says: the keystore's was renewed, or somebody exchanged it. Ask who "
        "keeps the keystore; where it is, `keyanon keystore ingest-key KEYSTORE --url ADDRESS` prints the address with its pin"
    )


def _from_bucket(address: str, endpoint_url: str | None) -> bytes:
    """An object's content. Raises ConfigError, MachineError."""
    folder, _, name = address.rpartition("/")
    store = open_store(folder, endpoint_url)
    try:
        return store.read(name, MAX_FILE_BYTES)
    except OSError as error:
        why = f"it has more than {MAX_FILE_BYTES} bytes" if error.errno == errno.EFBIG else error.strerror
        raise ConfigError(
            f"the ingest key {address} can not be read ({why}); mend its name, or put it there"
        ) from error
