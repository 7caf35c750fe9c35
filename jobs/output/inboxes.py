"""From the name of an inbox to the inbox; and those elsewhere that a keystore's ingest has taken in from.

`KEYSTORE/inboxes/<digest>.json` names one each. The keystore knows its own folder only; before ingest keys are destroyed somebody
must have looked into the others.
"""

import hashlib
import json
from pathlib import Path
from typing import Final

from jobs.errors import ConfigError, JobError
from jobs.output.bucket_inbox import BucketInbox
from jobs.storage.json_files import to_json
from jobs.storage.opening import open_store
from jobs.storage.place import Place, as_place, is_service
from keystore.errors import ErasureError
from keystore.intake.folder import FolderInbox, InboxPlace, holds_shards
from keystore.intake.shards import SHARD_SUFFIX
from keystore.service.inbox_client import ServiceInbox
from keystore.storage import durable

INBOXES: Final = "inboxes"  # below a keystore


def open_inbox(place: Place, endpoint_url: str | None, token_file: Path | None = None) -> InboxPlace:
    """The inbox of a folder, of `s3://bucket/prefix` or of a served keystore; nothing is sent or made. Raises ConfigError,
    StorageError: a token would be sent where others could read it."""
    if isinstance(place, Path):
        return FolderInbox(place)
    if not is_service(place):
        return BucketInbox(open_store(place, endpoint_url))
    if token_file is None:
        raise ConfigError(
            f"the inbox {place} is a served keystore's, which knows runs by their tokens; give --token-file"
        )
    return ServiceInbox(place, token_file.absolute())


def remember(keystore: Path, inbox: Place, endpoint_url: str | None) -> None:
    """Write down that ingest takes in from there. Raises OSError."""
    place = str(inbox.resolve()) if isinstance(inbox, Path) else inbox
    path = keystore / INBOXES / f"{hashlib.sha256(place.encode()).hexdigest()[:16]}.json"
    content = to_json({"inbox": place, "endpoint_url": endpoint_url})
    if not path.exists() or path.read_bytes() != content:
        durable.make_directory(path.parent)
        durable.replace(path, content)


def check_no_shard_waits(keystore: Path) -> None:
    """Raise ErasureError where a shard lies in any inbox that is known, or one can not be looked into."""
    if holds_shards(keystore):
        raise ErasureError("pending-shards", f"shards lie in {keystore}; take them in or remove them, then retire")
    for path in sorted((keystore / INBOXES).glob("*.json")):
        try:
            said = json.loads(path.read_bytes())
            place = as_place(said["inbox"])
            waits = _holds_shards(place, said["endpoint_url"])
        except (JobError, OSError, ValueError, KeyError, TypeError) as error:
            raise ErasureError(
                "unseen-inbox",
                f"the inbox that {path} names can not be looked into ({error}); mend that, or remove this file if no shard will "
                "ever be taken in from there again",
            ) from error
        if waits:
            raise ErasureError(
                "pending-shards",
                f"shards lie in {place}; take them in (`keyanon keystore ingest {keystore} --inbox {place}`) or remove them, "
                "then retire",
            )


def _holds_shards(place: Place, endpoint_url: str | None) -> bool:
    inbox = open_inbox(place, endpoint_url)
    if isinstance(inbox, BucketInbox):
        return next(inbox.shards(), None) is not None
    if isinstance(place, Path) and not place.is_dir():
        raise FileNotFoundError(f"there is no directory {place}")
    return bool(FolderInbox(Path(place)).runs(SHARD_SUFFIX))
