"""What must be true of a run whose processes were killed, read from the bucket and asked of the commands."""

import io
import json
import random
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from kills_scene import DATASET, Scene
from PIL import Image, ImageOps

from jobs.exit_codes import ExitCode
from keystore.embedded import Keystore

STATUSES = {"anonymized", "no_face", "quarantined"}
LEAST_DB = 30.0  # of a photograph that came back by the embedded prior


@dataclass(frozen=True)
class Claim:
    name: str
    holds: bool
    found: str


def claims(scene: Scene, sources: Mapping[str, bytes], sample: int, *, exact: bool) -> Iterator[Claim]:
    """Check all. sources: photographs by id. sample: pictures that are restored. exact: whether their pixels must be the same."""
    last = scene.attempts[-1]
    yield Claim(
        "the run ended", last.ended == ExitCode.OK, f"exit code {last.ended} {last.said if last.ended else ''}".strip()
    )
    rows = _rows(scene)
    ids = Counter(row["image_id"] for row in rows)
    statuses = Counter(row["status"] for row in rows)
    once = ids == Counter(sources.keys()) and statuses.keys() <= STATUSES
    yield Claim(
        "every row once, with a status", once, f"{len(rows)} rows of {len(sources)} photographs, {dict(statuses)}"
    )
    computed = [scene.computed(attempt) for attempt in scene.attempts]
    total, again = sum(map(len, computed)), 0
    for attempt, done in zip(scene.attempts, computed, strict=True):
        again += sum(one in attempt.standing for one in done)
    yield Claim("what was finished was not computed again", again == 0, f"{again} rows")
    typer_line = (
        f"{total} rows computed, {len(rows)} published: {total - len(rows)} were lost by kills before they were visible"
    )
    yield Claim("computed and published are counted", total >= len(rows), typer_line)
    yield _keys(scene, rows)
    for name, command in {
        "verify": ("verify", scene.output, "--keystore", scene.keystore),
        "reconcile --delete": ("reconcile", scene.output, "--keystore", scene.keystore, "--delete"),
    }.items():
        asked = scene.keyanon(*command, "--json")
        document = json.loads(asked.stdout) if asked.stdout else {}
        said = document.get(
            "counts", document.get("message", {k: v for k, v in document.items() if isinstance(v, int | bool)})
        )
        yield Claim(f"keyanon {name}", asked.returncode == ExitCode.OK, f"exit code {asked.returncode}, {said}")
    left = scene.json("reconcile", scene.output, "--keystore", scene.keystore).get("orphans")
    yield Claim("no orphan after it", left == [], str(left))
    yield Claim("nothing is left in the inbox", not (there := scene.server.names("inbox")), f"{len(there)} objects")
    yield _recovered(scene, rows, sources, sample, exact)


def _rows(scene: Scene) -> list[dict[str, object]]:
    """All rows of all shards that lie in `rows/`, read as any program reads them."""
    found: list[dict[str, object]] = []
    for name in sorted(scene.server.names("out")):
        if name.startswith("rows/"):
            table = pq.read_table(io.BytesIO(scene.server.get(f"out/{name}")))
            found += table.select(["image_id", "status", "record_id"]).to_pylist()
    return found


def _keys(scene: Scene, rows: list[dict[str, object]]) -> Claim:
    needed = {row["record_id"] for row in rows if row["status"] == "anonymized"}
    with Keystore.open(scene.keystore) as keystore:
        stored = {view.record_id for view in keystore.find_records()}
    found = (
        f"{len(needed & stored)} of {len(needed)} in the keystore, and {len(stored - needed)} of what was never visible"
    )
    return Claim("every published picture has its key", needed <= stored, found)


def _recovered(
    scene: Scene, rows: list[dict[str, object]], sources: Mapping[str, bytes], sample: int, exact: bool
) -> Claim:
    """Ask for some pictures, approve by two people, restore, compare.

    They are named by their record ids: ingest may have taken in the keys of a row that was computed, killed and computed again.
    """
    done = {str(row["image_id"]): str(row["record_id"]) for row in rows if row["status"] == "anonymized"}
    chosen = random.Random(scene.seed).sample(sorted(done), min(sample, len(done)))
    words = (
        "--case",
        "C-17",
        "--purpose",
        "identify",
        "--legal-basis",
        "court-order: StPO 98a",
        "--expires",
        "2h",
        "--dataset",
        DATASET,
    )
    asked = scene.json(
        "request", scene.keystore, *(part for one in chosen for part in ("--image", done[one])), *words, "--as", "ines"
    )
    if "request_id" not in asked:
        return Claim("a sample is restored", False, str(asked))
    digest = scene.json("show", scene.keystore, asked["request_id"])["digest"]
    for person in ("dora", "carl"):
        scene.keyanon("approve", scene.keystore, asked["request_id"], "--digest", digest, "--as", person)
    restored = scene.scratch / "restored"
    report = scene.json(
        "recover", scene.keystore, asked["request_id"], "--input", scene.output, "--output", restored, "--as", "ines"
    )
    entries = {entry["image_id"]: entry for entry in report.get("pictures", [])}
    decibels = {
        one: _psnr(sources[one], restored / entries[one]["output"])
        for one in chosen
        if entries.get(one, {}).get("output")
    }
    wanted = np.inf if exact else LEAST_DB
    holds = len(decibels) == len(chosen) and all(value >= wanted for value in decibels.values())
    said = ", ".join(f"{one} {'exact' if value == np.inf else f'{value:.1f} dB'}" for one, value in decibels.items())
    return Claim("a sample is restored", holds, said or str(report))


def _psnr(source: bytes, restored: Path) -> float:
    with Image.open(io.BytesIO(source)) as one, Image.open(restored) as other:
        pixels = np.asarray(ImageOps.exif_transpose(one).convert("RGB"), np.float64)
        error = float(np.mean((pixels - np.asarray(other.convert("RGB"), np.float64)) ** 2))
    return float("inf") if error == 0 else 10 * float(np.log10(255**2 / error))
