"""The only place that makes results visible, in the driver, which holds the lease of the output.

For each complete block that this attempt staged: every picture and sidecar is compared with the digest that its row lists,
then given its final name, then the row shard is put into `rows/`, on a disk by links; in a bucket a segment makes it visible.
None of this ever replaces anything. A process killed in between leaves final names that no visible row lists: they are
removed before they are made again, or when the run is complete.

On a disk one block is published after the other, by one thread. In a bucket, where each step waits for a server, several are in
hand: threads read them, put their files and their row shards, and take away what was staged, while the thread of the round
alone decides, writes the segments in the blocks' order, and ends at the first block that fails with those before it visible.
"""

import contextlib
import errno
import hashlib
import logging
import threading
from collections import Counter
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import pyarrow as pa
import pyarrow.types as pt

from jobs.ahead import ahead
from jobs.blocks import BYTES_FIELD, SIDECAR
from jobs.errors import LeaseError, MachineError, PublishError
from jobs.output.layout import ROWS, OutputLayout, shard_file
from jobs.output.name_sets import NameSet
from jobs.output.row_sets import RowSet
from jobs.output.row_shards import KeyShard, key_shard_of, listed_files, parsed_shard
from jobs.output.shared_lease import HeldLease
from jobs.output.staging import PICTURE_PART, SIDECAR_PART, Staging
from jobs.output.unwritable import unwritable
from jobs.storage.store import Copy

ROUND_SECONDS: Final = 0.5  # between looks for complete blocks
# Rounds that may fail one after the other for a server's faults, each after twice the time: a minute in all. Every step of a
# round may be taken again. A disk is not tried again: what it lacks is not mended in seconds.
ROUNDS_AGAIN: Final = 6
# Of a bucket, that are in hand at each of the steps that wait for it; `ahead` bounds their bytes too.
BLOCKS_AT_ONCE: Final = 8
_COLUMNS: Final = (
    "row",
    "image_id",
    "status",
    "reason",
    "output",
    "sidecar",
    "output_sha256",
    "sidecar_sha256",
    "faces",
)
# What `link` answers where a file system has no hard links, or not between these folders.
_NO_LINKS: Final = frozenset({errno.EPERM, errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP})

_LOGGER = logging.getLogger(__name__)

ReportPublished = Callable[[Counter[str], int], None]  # rows by status, and faces, that have just become visible
Admit = Callable[[Iterable[Mapping[str, Any]]], None]  # rows that are about to; raises what ends the attempt
Keyed = Callable[[KeyShard], None]  # the shard with the keys of pictures that have just become visible
_Thing = TypeVar("_Thing")
_Result = TypeVar("_Result")


@dataclass
class _Block:
    """What is staged under a name. files: what becomes visible beside the row shard, once that is known. taken: something has one
    of their final names; neither all of them nor the row shard was put."""

    name: str
    shard: bytes
    table: pa.Table
    rows: list[dict[str, Any]]
    files: list[Copy] = field(default_factory=list)
    taken: bool = False

    @property
    def numbers(self) -> set[int]:
        return {row["row"] for row in self.rows}

    @property
    def claims(self) -> set[int | str]:
        """Its rows, and the final names of its files: no other block may have one of them."""
        return self.numbers | {
            row[part] for row in self.rows for part in ("output", "sidecar") if row[part] is not None
        }


class Publisher:
    """Publishes what the workers of one attempt stage: in a thread while the `with` block runs, and once more at its end.

    done: rows that must not be published, because they are visible already or not asked for.
    """

    def __init__(
        self,
        layout: OutputLayout,
        lease: HeldLease,
        done: Collection[int],
        report: ReportPublished | None = None,
        admit: Admit | None = None,
        keyed: Keyed | None = None,
    ) -> None:
        self._layout, self._lease, self._done, self._report = layout, lease, RowSet(done), report
        self._admit, self._keyed = admit, keyed
        self._store = layout.store
        self._staging = Staging.of(self._store, lease.token.attempt)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._rounds, name="keyanon-publisher", daemon=True)
        self._failure: BaseException | None = None
        self._listed: NameSet | None = None  # by visible rows; read when a killed attempt's leftovers are met first
        self._admitted = set[str]()  # blocks that were counted: one that is tried again is not once more
        self._doubtful = set[str]()  # blocks that a segment may list, as the answer to it may be lost

    def __enter__(self) -> Self:
        self.open()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Publish the rest. Raises what a round raised: where the run failed too, it failed because of that."""
        self._over.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure
        self.publish_complete()

    def open(self) -> None:
        """Sweep what dead attempts staged, and make this one's folder. Raises PublishError, MachineError."""
        with self._explained():
            self._staging.sweep_others()
            self._staging.create()
            self._store.make_folder(ROWS)

    def publish_complete(self) -> None:
        """One round: every block that is complete by now.

        Raises:
            MachineError: a staged file is not what its row lists, nothing of that block is visible; a disk or server fails.
            PublishError: the output does not allow it. LeaseError: another attempt holds the output.
        """
        with self._explained():
            staged = self._staging.complete()
            while staged:
                staged = self._publish(staged)

    def _rounds(self) -> None:
        failed = 0  # rounds, one after the other
        while not self._over.wait(ROUND_SECONDS * 2**failed):
            try:
                self.publish_complete()
                failed = 0
            except BaseException as error:  # noqa: BLE001  raised again in the run's own thread
                failed += 1
                if isinstance(error, MachineError) and self._store.shared and failed <= ROUNDS_AGAIN:
                    _LOGGER.warning("what is complete could not be published, it is tried again: %s", error)
                    continue
                self._failure = error
                self._lease.withdraw()  # the workers end at their next block instead of computing for nothing
                return

    def _publish(self, staged: Mapping[str, int]) -> dict[str, int]:
        """Publish blocks, each given with its bytes; returns those that are left, as they share a row or a name with one that was
        in hand. When this ends, with an error or without, no thread is at it any more."""
        left: dict[str, int] = {}
        # Blocks that files or a row shard may have been put of, and what each claims.
        in_hand: dict[str, set[int | str]] = {}
        try:
            with contextlib.ExitStack() as steps:
                read = steps.enter_context(self._several(self._read, staged, staged.__getitem__))
                wanted = (block for block in read if self._may_begin(block, in_hand, left, staged))
                placed = steps.enter_context(self._several(self._place, wanted, lambda block: staged[block.name]))
                visible = self._made_visible(placed, in_hand)
                for _ in steps.enter_context(self._several(self._staging.discard, visible)):
                    pass
        except LeaseError:
            if self._store.shared:  # overtaken: these row shards are ours alone, and nobody will list them
                with contextlib.suppress(OSError, MachineError):
                    self._store.delete_all([shard_file(name) for name in in_hand if name not in self._doubtful])
            raise
        return left

    def _several(
        self, act: Callable[[_Thing], _Result], things: Iterable[_Thing], weigh: Callable[[_Thing], int] | None = None
    ) -> "contextlib.closing[Generator[_Result, None, None]]":
        return contextlib.closing(ahead(act, things, BLOCKS_AT_ONCE if self._store.shared else 1, weigh))

    def _read(self, name: str) -> _Block:
        """A staged block, without its files. Raises PublishError, OSError, MachineError, LeaseError: it was swept by another."""
        try:
            shard = self._store.read(self._staging.shard(name))
        except FileNotFoundError:
            self._lease.check()
            raise
        table = parsed_shard(shard, self._store.full(self._staging.shard(name)))
        block = _Block(name, shard, table, table.select(_COLUMNS).to_pylist())
        if len(block.numbers) != len(block.rows):
            raise PublishError(f"staged block {name} holds a row twice; nothing of it was published, run it again")
        return block

    def _may_begin(
        self, block: _Block, in_hand: dict[str, set[int | str]], left: dict[str, int], staged: Mapping[str, int]
    ) -> bool:
        """Whether a block is published now; it is in hand then. Raises what ends the attempt."""
        if not self._done.isdisjoint(block.numbers):  # a task that Ray repeated; its keys are an orphan shard
            self._staging.discard(block.name)
            return False
        claims = block.claims
        if not all(claims.isdisjoint(others) for others in in_hand.values()):
            left[block.name] = staged[block.name]
            return False
        if self._admit is not None and block.name not in self._admitted:
            self._admit(block.rows)
            self._admitted.add(block.name)
        in_hand[block.name] = claims
        return True

    def _place(self, block: _Block) -> _Block:
        """Give a block's files their final names, then its row shard. Raises LeaseError, OSError, MachineError."""
        self._lease.check()
        if self._layout.schema is not None:
            self._check_cells(block.name, block.rows, block.table)
        block.files = self._checked_files(block.name, block.rows)
        try:
            self._store.publish(block.files)
        except FileExistsError:  # its turn decides: which names visible rows list is known when all blocks before are
            block.taken = True
            return block
        self._put_rows(block)
        return block

    def _put_rows(self, block: _Block) -> None:
        self._store.publish([Copy(self._staging.shard(block.name), shard_file(block.name), block.shard)])

    def _made_visible(self, placed: Iterable[_Block], in_hand: dict[str, set[int | str]]) -> Iterator[str]:
        """Blocks in their order, each when it has just become visible. Raises as `publish_complete`."""
        for block in placed:
            if block.taken:  # published by an attempt that was killed before the row shard
                self._make_free(block.files)
                self._store.publish(block.files)
                self._put_rows(block)
            try:
                self._lease.commit([block.name])
            except (OSError, MachineError):
                self._doubtful.add(block.name)
                raise
            del in_hand[block.name]
            self._done.add(block.numbers)
            if self._listed is not None:
                self._listed.add(copy.final for copy in block.files)
            if self._report is not None:
                faces = sum(row["faces"] for row in block.rows if row["status"] == "anonymized")
                self._report(Counter(row["status"] for row in block.rows), faces)
            if self._keyed is not None and block.table.column("record_id").null_count < len(block.rows):
                self._keyed(key_shard_of(block.table, block.name))
            yield block.name

    def _checked_files(self, name: str, rows: list[dict[str, Any]]) -> list[Copy]:
        """What becomes visible beside the row shard, compared with what its row lists; the sidecar first: a picture always has
        its sidecar. Raises MachineError."""
        parts = [
            (row, position, part, column)
            for position, row in enumerate(rows)
            for part, column in ((SIDECAR_PART, "sidecar"), (PICTURE_PART, "output"))
            if row[column] is not None
        ]
        contents = self._staging.contents(name, [(position, part) for _, position, part, _ in parts])
        for (row, _, part, column), content in zip(parts, contents, strict=True):
            self._compare(name, row, part, column, content)
        return [
            Copy(self._staging.file(name, position, part), row[column], content)
            for (row, position, part, column), content in zip(parts, contents, strict=True)
            if content is not None
        ]

    def _check_cells(self, name: str, rows: list[dict[str, Any]], table: pa.Table) -> None:
        """Compare what lies in a row shard of Parquet with what its rows list. Raises MachineError."""
        pictures, sidecars = picture_cells(table, str(self._layout.image_column)), table.column(SIDECAR)
        for position, row in enumerate(rows):
            for part, column, cells in ((PICTURE_PART, "output", pictures), (SIDECAR_PART, "sidecar", sidecars)):
                self._compare(name, row, part, column, cells[position].as_py())

    def _compare(self, name: str, row: dict[str, Any], part: str, column: str, content: bytes | None) -> None:
        digest = None if content is None else hashlib.sha256(content).hexdigest()
        if digest != row[f"{column}_sha256"]:
            raise MachineError(
                f"{row['image_id']}: its {part}, staged in {self._store.full(self._staging.folder)}/{name}, is "
                f"{'missing' if content is None else 'not what its row lists'}; nothing of the block was "
                "published. Check the disk, then run the same command again"
            )

    def _make_free(self, files: list[Copy]) -> None:
        """Remove what has a block's final names. Raises PublishError where a visible row lists one of them, LeaseError."""
        if self._listed is None:
            self._listed = listed_files(self._store)
        # In this order: what is seen before the lease is found ours was not written by an attempt that came after, nor listed by
        # it, and is removed only while it is what was seen.
        taken = self._store.existing([copy.final for copy in files])
        self._lease.check()
        names = sorted(taken)
        for name, listed in zip(names, self._listed.has(names), strict=True):
            if listed:
                raise PublishError(
                    f"{self._store.full(name)} belongs to another row already; rename one of the two pictures in the input, "
                    "then give an empty output"
                )
        for name in names:
            self._store.delete(name, taken[name])

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Errors of the file system as PublishError, MachineError."""
        root = self._store
        try:
            yield
        except OSError as error:
            if error.errno in _NO_LINKS:
                raise PublishError(
                    f"output {root} does not allow the hard links that publishing needs ({error.strerror}: "
                    f"{error.filename}); choose an output on one file system that has them, and run all processes as one user"
                ) from error
            raise unwritable(root, error) from error


def picture_cells(table: pa.Table, column: str) -> pa.ChunkedArray:
    """The bytes of a Parquet output's image column; null where there is no picture."""
    cells = table.column(column)
    if not pt.is_struct(cells.type):
        return cells
    at = cells.type.get_field_index(BYTES_FIELD)
    return pa.chunked_array([chunk.flatten()[at] for chunk in cells.chunks], cells.type.field(at).type)
