"""What lies in an output, in its keystore's inbox and in the run's own, that does not count, and taking it away.

    staged     what attempts put below `_keyanon/attempts` and nobody will publish, and half-written files
    shard      a row shard of a bucket that no segment lists
    picture    a picture that no visible row lists, left by an attempt that was killed before its row shard
    sidecar    the same
    keys       a key shard with which nothing was published, or a half-written one
    taken in   a key shard that lies in the keystore's inbox although all its keys are in the keystore
    receipt    in the inbox of a run with a public key: of a shard with which nothing was published, or that the run has settled

Which attempt left them can not be seen: nothing is an orphan while a run is going on. What a visible row shard lists is looked up
anew before each removal, and is never removed; where a row shard can not be read, nothing is.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from jobs.errors import ConfigError, LeaseError, PublishError
from jobs.names import IMAGES, SIDECARS
from jobs.output.inboxes import open_inbox
from jobs.output.layout import ATTEMPTS, MANIFEST, ROWS, SHARD_SUFFIX, shard_file
from jobs.output.manifest import Manifest, read_existing
from jobs.output.reader import OutputError
from jobs.output.row_shards import RECORDS, listed_files, named_records, row_shards, standing_rows, unlisted
from jobs.output.settled import Settled
from jobs.output.shared_lease import HeldLease, holder_of, lease_of
from jobs.output.staging import sweep
from jobs.storage.place import Place, as_inbox
from jobs.storage.store import Store
from keystore.embedded import Keystore
from keystore.intake.folder import INBOX_NAME, InboxPlace
from keystore.intake.receipts import RECEIPT_SUFFIX
from keystore.intake.shards import SHARD_SUFFIX as KEYS_SUFFIX

STAGED: Final = "staged"
SHARD: Final = "shard"
KINDS: Final = {IMAGES: "picture", SIDECARS: "sidecar"}
KEYS: Final = "keys"
TAKEN_IN: Final = "taken in"
RECEIPT: Final = "receipt"


@dataclass(frozen=True)
class Orphan:
    """One object that does not count: below the output, or of an inbox by its name. bytes: 0 in an inbox elsewhere."""

    kind: str
    name: str
    bytes: int
    outside: bool = False  # in the inbox where the run handed its keys in


@dataclass(frozen=True)
class Reconciliation:
    """removed: False where they were only looked for."""

    run_id: str
    removed: bool
    orphans: tuple[Orphan, ...]

    def counts(self) -> dict[str, int]:
        """Orphans by kind."""
        return dict(Counter(orphan.kind for orphan in self.orphans))


def reconcile(
    store: Store,
    keystore: Keystore | None,
    *,
    remove: bool,
    inbox: Place | None = None,
    endpoint_url: str | None = None,
    token_file: Path | None = None,
) -> Reconciliation:
    """Look for what does not count, and remove it if that is asked for.

    keystore: that of the run, whose inbox is looked through too; None leaves it out. inbox: where the run hands its keys in now,
    if that is not where its manifest says. token_file: for the inbox of a served keystore, likewise.

    Raises:
        LeaseError: a run is going on there. OutputError: there is no run, or a row shard or segment can not be read; nothing was
        removed. ConfigError: another keystore; an inbox that is not there, or one for a run without. MachineError: a place can
        not be reached. KeystoreError.
    """
    try:
        manifest = None if store.see(MANIFEST) is None else read_existing(store)
        if manifest is None:
            raise OutputError(f"{store} is not the output of a keyanon run; give the one of `keyanon anonymize`")
        if keystore is not None and keystore.id != manifest.keystore_id:
            raise ConfigError(
                f"{keystore.path} is not the run's keystore, which is {manifest.keystore_id}; give that one"
            )
        if not remove and holder_of(store) is not None:
            raise LeaseError(f"a run is going on in {store}; wait for its end")
        handed_in = _place_of(manifest, inbox, endpoint_url, token_file)
        with lease_of(store) if remove else nullcontext() as lease:
            orphans = (*_in_output(store), *_in_inbox(store, keystore, manifest), *_outside(store, handed_in, manifest))
            if lease is not None:
                _remove(store, lease, orphans)
                if keystore is not None:
                    _remove_keys(store, keystore, manifest, orphans)
                if handed_in is not None:
                    _remove_outside(store, handed_in, manifest, orphans)
    except (PublishError, OSError) as error:
        raise OutputError(f"{store} can not be reconciled: {error}") from error
    return Reconciliation(manifest.run_id, remove, orphans)


def _in_output(store: Store) -> Iterator[Orphan]:
    visible, listed = {shard_file(name) for name in row_shards(store)}, listed_files(store)
    found = dict(store.sizes(ATTEMPTS))
    found |= {
        name: size
        for name, size in store.sizes(ROWS)
        if _is_half_written(name) or (name.endswith(SHARD_SUFFIX) and name not in visible)
    }
    strays = {name: size for folder in KINDS for name, size in listed.strays(store.sizes(folder))}
    # What a run that goes on has published since the rows were read is no stray.
    found |= {name: strays[name] for name in unlisted(store, strays.keys())}
    for name, size in sorted(found.items()):
        yield Orphan(_kind_of(name), name, size)


def _kind_of(name: str) -> str:
    if name.startswith(f"{ATTEMPTS}/") or _is_half_written(name):
        return STAGED
    folder = name.split("/")[0]
    return SHARD if folder == ROWS else KINDS[folder]


def _is_half_written(name: str) -> bool:
    file = name.rpartition("/")[2]
    return file.startswith(".") and file.endswith(".tmp")


def _in_inbox(store: Store, keystore: Keystore | None, manifest: Manifest) -> Iterator[Orphan]:
    if keystore is None:
        return
    folder = keystore.path / INBOX_NAME / manifest.run_id
    for path in sorted(folder.glob(f".*{KEYS_SUFFIX}.*.tmp")):
        yield Orphan(KEYS, path.name, path.stat().st_size)
    waiting = {path.name.removesuffix(KEYS_SUFFIX): path for path in folder.glob(f"[!.]*{KEYS_SUFFIX}")}
    if not waiting:
        return
    records = _records_by_key_shard(store)
    for name, path in sorted(waiting.items()):
        if name not in records:
            yield Orphan(KEYS, name, path.stat().st_size)
        elif records[name] and not keystore.missing(records[name]):
            yield Orphan(TAKEN_IN, name, path.stat().st_size)


def _place_of(
    manifest: Manifest, inbox: Place | None, endpoint_url: str | None, token_file: Path | None
) -> InboxPlace | None:
    """Where the run hands its keys in; None of one with a keystore of its own, or that discards its keys. Raises ConfigError."""
    said = manifest.config.get("inbox")
    if said is None and inbox is not None:
        raise ConfigError(
            "the run has no inbox: its keystore lay beside it, or its keys were discarded; leave --inbox out"
        )
    if said is None:
        return None
    place, token = inbox or as_inbox(said), manifest.config.get("token_file")
    if isinstance(place, Path) and not place.is_dir():
        raise ConfigError(f"the run's inbox {place} is no directory here; say with --inbox where it is now")
    token_file = token_file or (None if token is None else Path(token))
    return open_inbox(place, endpoint_url or manifest.config.get("endpoint_url"), token_file)


def _outside(store: Store, inbox: InboxPlace | None, manifest: Manifest) -> Iterator[Orphan]:
    """A shard of a visible row is ingest's to take away; a receipt waits until its run is settled."""
    if inbox is None:
        return
    published, settled = set(_records_by_key_shard(store)), Settled.read(store).names
    for suffix, kind, needed in (
        (KEYS_SUFFIX, KEYS, published),
        (RECEIPT_SUFFIX, RECEIPT, published - settled),
    ):
        for file in inbox.names(manifest.run_id, suffix):
            if file.removesuffix(suffix) not in needed:
                yield Orphan(kind, file, 0, outside=True)


def _remove_outside(store: Store, inbox: InboxPlace, manifest: Manifest, orphans: Sequence[Orphan]) -> None:
    still = {(orphan.kind, orphan.name) for orphan in _outside(store, inbox, manifest)}  # looked up anew
    gone = [orphan.name for orphan in orphans if orphan.outside and (orphan.kind, orphan.name) in still]
    inbox.remove(manifest.run_id, gone)


def _records_by_key_shard(store: Store) -> dict[str, set[str]]:
    """Ids of the records of each key shard with which rows were published. Rows that were done again count too: their shard is
    not gone yet."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for part in standing_rows(store, ["row", *RECORDS]):
        found[part.key_shard.name].update(named_records(part.table))
    return found


def _remove(store: Store, lease: HeldLease, orphans: Sequence[Orphan]) -> None:
    files = [orphan.name for orphan in orphans if orphan.kind in KINDS.values()]
    # In this order: see `Publisher._make_free`.
    there = store.existing(files)
    lease.commit([])  # not by an attempt that was overtaken and does not know it yet
    lease.check()
    for name in sorted(unlisted(store, there.keys())):
        store.delete(name, there[name])
    visible = {shard_file(name) for name in row_shards(store)}
    for orphan in orphans:
        half_written = orphan.kind == STAGED and not orphan.name.startswith(f"{ATTEMPTS}/")
        if half_written or (orphan.kind == SHARD and orphan.name not in visible):
            store.delete(orphan.name)
    sweep(store)


def _remove_keys(store: Store, keystore: Keystore, manifest: Manifest, orphans: Sequence[Orphan]) -> None:
    orphans = [orphan for orphan in orphans if not orphan.outside]
    if any(orphan.kind == KEYS for orphan in orphans):
        keystore.reconcile(manifest.run_id, sorted(_records_by_key_shard(store)))
    # The keystore compares a shard with what it has, and removes it when all of it is there.
    if taken_in := [orphan.name for orphan in orphans if orphan.kind == TAKEN_IN]:
        keystore.ingest(manifest.run_id, taken_in)
