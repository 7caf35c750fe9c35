"""`keyanon keystore ingest --follow`, which goes on for years: it counts, and what it could not take in it tries again."""

from pathlib import Path

import pytest

from jobs.exit_codes import ExitCode
from keystore.embedded import Keystore
from keystore.ingest_opening import IngestOpening
from keystore.intake.shards import write_shard
from keystore.opening import read_public_key

from .conftest import DATASET, RUN, Keyanon, sealed_record


def leave(keystore: Path, run: str, shard: str, name: str) -> Path:
    """A shard of one record in the inbox."""
    public_key = read_public_key(keystore / "ingest.pub")
    return write_shard(keystore / "inbox" / run, shard, [sealed_record(public_key, name, run_id=run)])


def test_a_following_ingest_counts_what_it_takes_in_and_ends_when_it_is_interrupted(
    keyanon: Keyanon, keystore: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(keystore, RUN, "part-1", "c.jpg").write_bytes(b"damaged")
    looks: list[float] = []

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 2:
            leave(keystore, RUN, "part-2", "d.jpg")
        if len(looks) == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr("jobs.commands.keystore_admin.time.sleep", sleep)
    ended = keyanon("keystore", "ingest", keystore, "--follow", "--json")
    assert ended.code == ExitCode.WRONG_KEY_OR_TAMPERED
    counts = {"shards": 1, "ingested": 1, "already_present": 0, "erased": 0, "rejected": 0, "failed": 1}
    assert ended.json == {"runs": [{"run": RUN, **counts}], "left": 1}


@pytest.mark.parametrize("cause", ["damaged", "not announced"])
def test_a_shard_that_stayed_is_tried_again_after_a_growing_wait_and_then_forgotten(
    keyanon: Keyanon, keystore: Path, monkeypatch: pytest.MonkeyPatch, cause: str
) -> None:
    run = RUN if cause == "damaged" else "run-9"
    shard = leave(keystore, run, "part-1", "c.jpg")
    whole = shard.read_bytes()
    if cause == "damaged":
        shard.write_bytes(b"damaged")
    now, tries, looks = [0.0], list[float](), [0]
    take = IngestOpening.ingest

    def ingest(opened: IngestOpening, *arguments: object) -> object:
        tries.append(now[0])
        return take(opened, *arguments)  # type: ignore[arg-type]

    def sleep(_: float) -> None:
        now[0], looks[0] = now[0] + 10, looks[0] + 1
        if now[0] == 500 and cause == "damaged":
            shard.write_bytes(whole)
        elif now[0] == 500:
            with Keystore.open(keystore) as opened:
                opened.inbox(run, DATASET)
        if now[0] == 2000:
            raise KeyboardInterrupt

    monkeypatch.setattr(IngestOpening, "ingest", ingest)
    monkeypatch.setattr("jobs.commands.ingest_rounds.monotonic", lambda: now[0])
    monkeypatch.setattr("jobs.commands.keystore_admin.time.sleep", sleep)
    ended = keyanon("keystore", "ingest", keystore, "--follow", "--json")
    assert tries == [0, 60, 180, 420, 900], "twice as long each time, until it was mended"
    assert (ended.code, ended.json["left"], ended.json["runs"][0]["ingested"]) == (0, 0, 1)


def test_a_following_ingest_that_is_interrupted_at_work_counts_what_it_took_in_and_calls_nothing_tampered(
    keyanon: Keyanon, keystore: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(keystore, RUN, "part-1", "c.jpg")
    with Keystore.open(keystore) as opened:
        opened.inbox("run-9", DATASET)
    leave(keystore, "run-9", "part-1", "d.jpg")
    take = IngestOpening.ingest

    def ingest(opened: IngestOpening, run: str, names: list[str]) -> object:
        if run == "run-9":
            raise KeyboardInterrupt
        return take(opened, run, names)

    monkeypatch.setattr(IngestOpening, "ingest", ingest)
    ended = keyanon("keystore", "ingest", keystore, "--follow", "--json")
    assert (ended.code, ended.json["left"]) == (0, 1)
    assert [(run["run"], run["ingested"]) for run in ended.json["runs"]] == [(RUN, 1)]
