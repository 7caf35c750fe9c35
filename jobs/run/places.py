"""What a run reads and writes, opened: its output, under a lease, the rows that stand there, and where its keys go."""

import contextlib
import logging
from collections.abc import Iterator

from jobs.config import AnonymizeConfig
from jobs.output.doors import DoorName
from jobs.output.keys import KeyHolder, OwnKeystore
from jobs.output.layout import OutputLayout
from jobs.output.numbering import Numbering
from jobs.output.row_shards import standing_rows
from jobs.output.shared_lease import HeldLease, lease_of
from jobs.output.unwritable import unwritable
from jobs.sources.source import Source
from keystore.decisions.api_token import Role
from keystore.keeper import KeeperProcess

logger = logging.getLogger(__name__)


def layout_of(config: AnonymizeConfig, source: Source) -> OutputLayout:
    """Where a run's rows go."""
    return OutputLayout(config.output, config.output_format, source.schema, source.image_column, config.endpoint_url)


def check_named(layout: OutputLayout, source: Source) -> None:
    """Raise SourceError when a file of the user's names a picture that is neither listed nor has a row that stands; and
    PublishError, MachineError."""
    if unlisted := {name for one in source.unlisted for name in one.names}:
        parts = standing_rows(layout.store, ["row", "image_id"])
        standing = {name for part in parts for name in part.table.column("image_id").to_pylist() if name in unlisted}
        for one in source.unlisted:
            one.check(standing)


def numbered(config: AnonymizeConfig, layout: OutputLayout, source: Source) -> Numbering:
    """Which of the output's rows each of the source is. Raises PublishError."""
    rows = Numbering.of(layout.store, source, keep_gone=config.gone == "keep")
    if len(rows.gone):
        logger.warning("%d rows of the output stay whose pictures are not in the input any more", len(rows.gone))
    return rows


@contextlib.contextmanager
def holding(layout: OutputLayout) -> Iterator[HeldLease]:
    """The output's lease. What can not be written there is a PublishError that names it, or a MachineError."""
    try:
        with lease_of(layout.store) as lease:
            yield lease
    except OSError as error:
        raise unwritable(layout.store, error) from error


def door_of(config: AnonymizeConfig) -> DoorName | None:
    """Where the run hands its keys in; None of one with a keystore of its own, or without keys."""
    if config.ingest_key is None or config.inbox is None:
        return None
    return DoorName(
        config.ingest_key,
        config.inbox,
        config.endpoint_url,
        config.token_file,
        config.dataset,
        config.receipt_seconds,
        Role.PSEUDONYMS if config.has_pseudonyms else Role.INGEST,
    )


@contextlib.contextmanager
def open_keys(
    config: AnonymizeConfig, *, create: bool, keeper: KeeperProcess | None = None
) -> Iterator[KeyHolder | None]:
    """Where the run's keys go, None where they are discarded. create: make the keystore where there is none. keeper: the process
    that opens it; None starts one.

    Raises KeystoreError, MachineError.
    """
    if (door := door_of(config)) is not None:
        yield door.open()
    elif config.keystore is not None:
        with OwnKeystore.kept(config.keystore, config.kek, create=create, process=keeper) as kept:
            yield kept
    else:
        yield None
