"""What the driver of a run costs, in time and memory, by the number of rows: list, lay out, have Ray plan, `keyanon plan`,
resume, settle, ask for the keys, verify, publish one block, read the segments and the rows of a bucket, recover one. No picture
is computed: the rows of an output are written as a run writes them, with 64 or more to a shard.

    python benchmarks/manifest_scale.py --rows 1000000 --rows-per-shard 64
    python benchmarks/manifest_scale.py --rows 10000000 --rows-per-shard 1024

Each step runs in a process of its own, whose peak resident memory is printed beside what the imports alone take. `ray_checkpoint`
is no step of keyanon: Ray Data's own checkpoint of the same rows, loaded as a resumed run of Ray loads it.
"""

import argparse
import multiprocessing
import os
import resource
import secrets
import shutil
import sys
import tempfile
import time
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import compress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.ahead import AT_ONCE, ahead
from jobs.blocks import SHARD_SCHEMA, SIDECAR
from jobs.config import AnonymizeConfig
from jobs.output.commit import settle
from jobs.output.keys import OwnKeystore, Records, check_keys
from jobs.output.layout import MANIFEST, PACKED_SEGMENTS, ROWS, SEGMENTS, OutputLayout, shard_file
from jobs.output.lease import Lease
from jobs.output.manifest import COMPLETE, Manifest
from jobs.output.numbering import Numbering
from jobs.output.publisher import Publisher
from jobs.output.reader import find_rows
from jobs.output.row_shards import KeyShard, new_shard_name, row_shards, standing_rows, to_parquet, with_key_shard
from jobs.output.segments import Segments
from jobs.output.staging import Staging
from jobs.output.verify import verify_output
from jobs.run.cluster import ray_cluster
from jobs.run.plan import plan_run
from jobs.run.reading import read_pictures
from jobs.sources.source import Source, open_source, version_of
from jobs.storage.local import LocalStore
from jobs.storage.s3 import S3Store

ROWS_PER_FILE = 1_000_000  # of the Parquet input
ROWS_PER_GROUP = 10_000
FILES_OF_FOLDER = 200_000  # at most, really made
OBJECTS = 20_000  # of the bucket that is listed
PLANNED_SAMPLE = 8  # pictures
KEYED_ROWS = 20_000  # to seal their keys and to take them in takes longer than to ask for them
ROWS_OF_KEYS = 64  # to a key shard
ROWS_OF_TASKS = 64
WAY_SECONDS = 0.03  # to a bucket and back


class Bucketlike(LocalStore):
    """A folder that is read as a bucket is, by its segments; it is filled without waiting for the disk."""

    shared = True

    def create(self, name: str, content: bytes) -> str:
        (self.root / name).write_bytes(content)
        return ""


class Far(Bucketlike):
    """One whose row shards are a way there and back away."""

    def open_parquet(self, name: str) -> Any:
        time.sleep(WAY_SECONDS)
        return super().open_parquet(name)


def config_of(root: Path, photos: str, **settings: Any) -> AnonymizeConfig:
    places = {"photos": root / photos, "output": root / "out", "keystore": root / "ks"}
    return AnonymizeConfig.load(None, places | settings)


def make_parquet(root: Path, rows: int) -> None:
    """Rows of a byte each: what is listed does not depend on their pictures. `name` is what they are called without it."""
    (root / "parquet").mkdir()
    for first in range(0, rows, ROWS_PER_FILE):
        count = min(ROWS_PER_FILE, rows - first)
        file = f"{first:012d}.parquet"
        names = [f"{file}#{row}" for row in range(count)]
        table = pa.table({"image": pa.array([b"x"] * count, pa.binary()), "name": names})
        pq.write_table(table, root / "parquet" / file, row_group_size=ROWS_PER_GROUP)


def make_folder(root: Path, files: int) -> None:
    for number in range(files):
        folder = root / "folder" / f"{number // 1000:06d}"
        if number % 1000 == 0:
            folder.mkdir(parents=True)
        (folder / f"photograph-{number:09d}.jpg").touch()


def make_rows(root: Path, rows: int, rows_per_shard: int) -> None:
    """The row shards of a complete run over the Parquet input."""
    (root / "out" / ROWS).mkdir(parents=True)
    versions = {}
    for path in sorted((root / "parquet").iterdir()):
        versions[path.name] = version_of(path.name, path.stat().st_size, path.stat().st_mtime_ns)
    for first in range(0, rows, rows_per_shard):
        numbers = list(range(first, min(first + rows_per_shard, rows)))
        count = len(numbers)
        files = [f"{number // ROWS_PER_FILE * ROWS_PER_FILE:012d}.parquet" for number in numbers]
        columns = {
            "row": numbers,
            "image_id": [f"{file}#{number % ROWS_PER_FILE}" for file, number in zip(files, numbers, strict=True)],
            "status": ["anonymized"] * count,
            "reason": [""] * count,
            "record_id": [f"00000000-0000-0000-0000-{number:012x}" for number in numbers],
            "output": [None] * count,
            "sidecar": [None] * count,
            "source_hmac": _digests(count),
            "output_sha256": _digests(count),
            "sidecar_sha256": _digests(count),
            "faces": [1] * count,
            "kept": [0] * count,
            "permanent": [False] * count,
            "fidelity": ["latent"] * count,
            "source_version": [versions[file] for file in files],
            "pseudonym": [None] * count,
            "track_records": [None] * count,
        }
        name = new_shard_name(numbers, 0)
        table = with_key_shard(pa.table(columns, schema=SHARD_SCHEMA), KeyShard(name, "0" * 64))
        (root / "out" / shard_file(name)).write_bytes(to_parquet(table))


def _digests(count: int) -> pa.Array:
    """So many sha256, as hexadecimal digits."""
    ends = pa.array(range(0, 64 * count + 1, 64), pa.int32())
    return pa.StringArray.from_buffers(count, ends.buffers()[1], pa.py_buffer(secrets.token_hex(32 * count).encode()))


def listed(root: Path, photos: str, **settings: Any) -> Source:
    return open_source(config_of(root, photos, **settings))


def nothing(root: Path) -> None:
    """What the imports take."""


def list_parquet(root: Path) -> None:
    listed(root, "parquet")


def list_named(root: Path) -> None:
    """The same rows, called by a column of their own."""
    listed(root, "parquet", id_column="name")


def list_folder(root: Path) -> None:
    listed(root, "folder")


def list_bucket(root: Path) -> None:
    """A folder of a bucket on this machine, of a number of its own: a thousand to a page, one page after the other."""
    sys.path.append(str(Path(__file__).parents[1]))  # for what the tests start servers with
    from tests.jobs.seaweed import BUCKET, Seaweed

    with tempfile.TemporaryDirectory(dir=root) as folder:
        server = Seaweed(Path(folder))
        os.environ.update(server.environment)
        try:
            server.start()
            photos = f"s3://{BUCKET}/photos"
            store = S3Store.of(photos, server.url)
            deque(ahead(lambda number: store.create(f"photograph-{number:09d}.jpg", b""), range(OBJECTS)), maxlen=0)
            config = AnonymizeConfig.load(None, {"photos": photos, "output": root / "out", "keystore": root / "ks"})
            begun, used = time.monotonic(), time.process_time()
            assert open_source(config).total == OBJECTS
            seconds, cpu = time.monotonic() - begun, time.process_time() - used
            print(f"    (list alone: {seconds:.2f} s for {OBJECTS} objects, {cpu:.2f} s of this process's CPU)")
        finally:
            server.stop()


def lay_out(root: Path) -> None:
    """Rows to read tasks, as Ray is given them."""
    source = listed(root, "parquet")
    for _ in source.units((), lambda left: 64):
        pass


def lay_out_folder(root: Path) -> None:
    source = listed(root, "folder")
    for _ in source.units((), lambda left: 64):
        pass


def ray_segments(root: Path) -> None:
    """The folder's rows as one segment that Ray plans, then five times of them as one, until a first block is there. No file is
    read."""
    source, block = listed(root, "folder"), pa.table({"row": [0]})
    with ray_cluster(1):
        for times in (1, 5):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            begun = time.monotonic()
            laid_out = (unit for _ in range(times) for unit in source.units((), lambda left: ROWS_OF_TASKS))
            # Each reader goes along and is not called: of the two the block is chosen.
            units = [replace(unit, read=partial(compress, (block, unit.read), (True, False))) for unit in laid_out]
            blocks = read_pictures(source, units, ROWS_OF_TASKS).iter_internal_ref_bundles()
            next(iter(blocks))
            seconds, rows = time.monotonic() - begun, sum(unit.rows for unit in units)
            more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
            print(f"    ({rows} rows in {len(units)} tasks: {seconds:.1f} s, {more:.0f} MiB more)")
            del blocks, units


def plan_command(root: Path) -> None:
    """`keyanon plan` over a run that is done but for what it says: nothing is left. The cluster and the sample are in it."""
    config = config_of(root, "parquet")
    store = LocalStore(root / "out")
    source = open_source(config, config.given())
    Manifest.begin("run-plan", None, config, source).write(store)
    del source
    try:
        begun = time.monotonic()
        found = plan_run(config, sample=PLANNED_SAMPLE)
        print(
            f"    (plan alone: {time.monotonic() - begun:.1f} s, {found.start_seconds:.1f} of it start and first picture)"
        )
        assert found.rows_left == 0
    finally:
        store.delete(MANIFEST)


def read_segments(root: Path) -> None:
    """Names of all row shards by the segments of an output in a bucket, where each block that is committed is a segment."""
    store = Bucketlike(root / "segments")
    names = sorted(path.stem for path in (root / "out" / ROWS).iterdir())
    if not store.root.exists():
        store.make_folder(SEGMENTS)
        segments = Segments(store, "0" * 32)
        for name in names:
            segments.append([name])
    for how in ("packed", "one by one"):
        begun = time.monotonic()
        found = list(row_shards(store))
        print(f"    ({how}: {time.monotonic() - begun:.2f} s, {len(names)} segments)")
        assert found == names
        shutil.rmtree(store.root / PACKED_SEGMENTS, ignore_errors=True)


def read_far(root: Path) -> None:
    """One column of all row shards, each a request of its own to a bucket; the ways there and back are slept."""
    store = Far(root / "far")
    if not store.root.exists():
        store.make_folder(SEGMENTS)
        (store.root / ROWS).symlink_to(root / "out" / ROWS)
        Segments(store, "0" * 32).append([path.stem for path in (root / "out" / ROWS).iterdir()])
    for at_once in (AT_ONCE, 1):
        begun = time.monotonic()
        shards = sum(1 for _ in standing_rows(store, ["row"], at_once=at_once))
        print(f"    ({at_once} at once: {time.monotonic() - begun:.1f} s, {shards} shards)")


def resume(root: Path) -> None:
    _resumed(root, listed(root, "parquet"))


def resume_named(root: Path) -> None:
    _resumed(root, listed(root, "parquet", id_column="name"))


def _resumed(root: Path, source: Source) -> None:
    rows = Numbering.of(LocalStore(root / "out"), source)
    assert len(rows.done) == source.total


def settle_all(root: Path) -> None:
    layout = OutputLayout(root / "out", "png")
    rows = sum(pq.read_metadata(path).num_rows for path in (root / "out" / ROWS).iterdir())
    begun = time.monotonic()
    settle(layout, rows)
    print(f"    (settle alone: {time.monotonic() - begun:.1f} s)")


def ask_keys(root: Path) -> None:
    """Whether the keystore has the keys of rows, as a run asks at its end: of the process that has it open. Their number is not
    that of the rows."""
    from keystore_rates import DATASET, RUN, record

    from keystore.intake.sealing import Sealer

    handed = list[Records]()
    with (
        tempfile.TemporaryDirectory(dir=root) as folder,
        OwnKeystore.kept(Path(folder) / "ks", None, create=True) as keys,
    ):
        inbox, sealer = keys.begin(RUN, DATASET), Sealer(keys.key.public_key, RUN, DATASET)
        for first in range(0, KEYED_ROWS, ROWS_OF_KEYS):
            made = [record(number) for number in range(first, first + ROWS_OF_KEYS)]
            shard = inbox.hand_in(f"part-{first:09d}", [sealer.seal(one) for one in made])
            handed.append((shard, [one.record_id for one in made]))
        begun = time.monotonic()
        keys.take_in(RUN, {shard: len(ids) for shard, ids in handed})
        taken = time.monotonic()
        check_keys(keys, RUN, iter(handed))
        asked = time.monotonic() - taken
    count = len(handed) * ROWS_OF_KEYS
    print(f"    (asked alone: {asked:.2f} s for {count} keys; they were taken in within {taken - begun:.1f} s)")


def keep_out(root: Path) -> None:
    """Another output, of the same rows as ones that were kept out: no picture of theirs is there to be read."""
    store, source = LocalStore(root / "kept-out"), listed(root, "parquet")
    store.make_folder(ROWS)
    for path in (root / "out" / ROWS).iterdir():
        (store.root / ROWS / path.name).write_bytes(to_parquet(_kept_out(pq.read_table(path), source)))
    manifest = Manifest.begin("run-verify", None, config_of(root, "parquet"), source)
    replace(manifest, state=COMPLETE).write(store)


def verify_rows(root: Path) -> None:
    """`keyanon verify` of that output, without a keystore."""
    found = verify_output(LocalStore(root / "kept-out"), None)
    assert found.rows == found.total and not found.disagreements, found.disagreements[:3]


def _kept_out(rows: pa.Table, source: Source) -> pa.Table:
    count = rows.num_rows
    for name in ("record_id", "source_hmac", "output_sha256", "sidecar_sha256", "fidelity"):
        rows = rows.set_column(rows.column_names.index(name), name, pa.nulls(count, rows.schema.field(name).type))
    for name, said in (("status", "quarantined"), ("reason", "still_recognizable: as the gate says")):
        rows = rows.set_column(rows.column_names.index(name), name, pa.array([said] * count))
    for name in (str(source.image_column), SIDECAR):
        rows = rows.append_column(name, pa.nulls(count, pa.binary()))
    return rows


def publish_block(root: Path) -> None:
    """A block of one quarantined row, into an output that has all the others."""
    layout = OutputLayout(root / "out", "png")
    with Lease(root / "out" / "_keyanon") as lease:
        publisher = Publisher(layout, lease, ())
        publisher.open()
        staging = Staging.of(layout.store, lease.token.attempt)
        table = pq.read_table(next((root / "out" / ROWS).iterdir())).slice(0, 1)
        row = table.to_pylist()[0] | {
            "row": 20_000_000,
            "status": "quarantined",
            "output_sha256": None,
            "sidecar_sha256": None,
        }
        name = new_shard_name([row["row"]], 0)
        staging.finish(name, to_parquet(pa.Table.from_pylist([row], schema=SHARD_SCHEMA)))
        begun = time.monotonic()
        publisher.publish_complete()
        print(f"    (publish alone: {(time.monotonic() - begun) * 1000:.1f} ms)")
        layout.store.delete(shard_file(name))


def recover_one(root: Path) -> None:
    found = find_rows(LocalStore(root / "out"), {str(uuid.UUID(int=7))})
    assert len(found) == 1


def ray_checkpoint(root: Path) -> None:
    """What Ray Data keeps is the id of each row that was written, a file for each block; what it filters by is all of them."""
    import ray
    from ray.data.checkpoint import CheckpointConfig
    from ray.data.checkpoint.checkpoint_filter import IdColumnCheckpointManager, NumpyArrayBasedCheckpointFilter

    kept = root / "ray-checkpoint"
    if not kept.exists():
        kept.mkdir()
        for path in (root / "out" / ROWS).iterdir():
            pq.write_table(pq.read_table(path, columns=["image_id"]), kept / path.name)
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    config = CheckpointConfig(id_column="image_id", checkpoint_path=str(kept))

    class Holder(NumpyArrayBasedCheckpointFilter):  # type: ignore[misc]  # Ray is untyped
        """A filter actor; Ray Data starts one to ten."""

        def __init__(self, config: CheckpointConfig, held: list[ray.ObjectRef]) -> None:
            super().__init__(config, held[0])

        def peak(self) -> int:
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    begun = time.monotonic()
    ids, size = IdColumnCheckpointManager(checkpoint_config=config, data_context=context).load_checkpoint()
    loaded = time.monotonic() - begun
    peak = ray.get(ray.remote(Holder).remote(config, [ids]).peak.remote())
    print(
        f"    (load alone: {loaded:.1f} s; ids {size / 2**20:.0f} MiB as Ray counts; a filter actor {peak / 1024:.0f} MiB)"
    )
    ray.shutdown()


STEPS: tuple[Callable[[Path], None], ...] = (
    nothing,
    list_folder,
    lay_out_folder,
    list_bucket,
    list_parquet,
    list_named,
    lay_out,
    ray_segments,
    plan_command,
    read_segments,
    read_far,
    resume,
    resume_named,
    settle_all,
    ask_keys,
    keep_out,
    verify_rows,
    publish_block,
    recover_one,
    ray_checkpoint,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rows-per-shard", type=int, default=64)
    parser.add_argument("--steps", default="", help="names, with commas; all by default")
    parser.add_argument("--keep", type=Path, help="a folder that holds what was made, or will")
    given = parser.parse_args()
    root = given.keep or Path(tempfile.mkdtemp(prefix="keyanon-scale-"))
    if not (root / "out").exists():
        root.mkdir(exist_ok=True)
        apart(make_parquet, root, given.rows)
        apart(make_rows, root, given.rows, given.rows_per_shard)
    steps = [step for step in STEPS if not given.steps or step.__name__ in given.steps.split(",")]
    if {list_folder, lay_out_folder, ray_segments} & set(steps) and not (root / "folder").exists():
        apart(make_folder, root, min(given.rows, FILES_OF_FOLDER))
    shards = len(list((root / "out" / ROWS).iterdir()))
    print(f"{given.rows} rows, {shards} shards; folder: {min(given.rows, FILES_OF_FOLDER)} files")
    print(f"{'step':16} {'s':>8} {'MiB at most':>12}")
    for step in steps:
        seconds, peak = apart(_measured, step, root)
        print(f"{step.__name__:16} {seconds:8.1f} {peak:12.0f}", flush=True)
    if given.keep is None:
        shutil.rmtree(root)


def apart(act: Callable[..., Any], *given: Any) -> Any:
    """Act in a process of its own. One that is started by a large process counts as large as that, so this one stays small."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(act, given)


def _measured(step: Callable[[Path], None], root: Path) -> tuple[float, float]:
    """Seconds, and MiB of resident memory at most, of a step."""
    begun = time.monotonic()
    step(root)
    return time.monotonic() - begun, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
