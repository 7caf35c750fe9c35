"""Clips through a run: stopped and resumed, joined, and back by an approved recovery."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.commands.cli import main
from jobs.output.clip_view import clip_view, clip_views, page_of
from jobs.output.reader import OutputError, read_rows
from jobs.output.reconcile import reconcile
from jobs.output.verify import verify_output
from jobs.recovery import RecoveryReport, prepare, recover_request
from jobs.run.anonymize import run_anonymize
from jobs.run.report import RunReport
from jobs.storage.opening import open_store
from keyanon_core.imaging import decode_picture
from keystore.embedded import Keystore
from tests.jobs.conftest import MakeConfig, config_maker
from tests.jobs.in_process import run_in_process
from tests.jobs.key_search import holds_key
from tests.jobs.run.test_pseudonym_runs import released
from tests.made_clips import MadeClip, make_clip

pytestmark = pytest.mark.slow
FRAMES = 34  # a whole piece, and the beginning of another


def frames_of(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as opened:
        return [frame.to_ndarray(format="rgb24") for frame in opened.decode(video=0)]


def packets_of(path: Path, kind: str) -> list[tuple[float, bytes]]:
    """When each is seen or heard, in seconds, in this order, and of sound what it holds."""
    with av.open(str(path)) as opened:
        (stream,) = getattr(opened.streams, kind)
        packets = [packet for packet in opened.demux(stream) if packet.size]
        return sorted(
            (round(float(one.pts * one.time_base), 6), bytes(one) if kind == "audio" else b"") for one in packets
        )


def recovered(keystore: Keystore, place: Path, images: Sequence[str], restored: Path) -> RecoveryReport:
    """What comes of a request for these images that others approve. place: has the output."""
    request = keystore.request("ann", images, "C-1", "test of the recovery", "consent", timedelta(hours=1))
    for person in ("bob", "cleo"):
        keystore.approve(request.request_id, person, request.digest)
    prepared = prepare(place / "out", restored, keystore.show(request.request_id).images)
    return recover_request(keystore, request.request_id, "ann", prepared)


def with_swapped_records(out: Path, edited: Path) -> Path:
    """A copy of an output whose two pieces each list the other's key records."""
    shutil.copytree(out, edited)
    tables = {shard: pq.read_table(shard) for shard in sorted((edited / "rows").iterdir())}
    listed = [one for table in tables.values() for one in table["track_records"].to_pylist() if one]
    assert len(listed) == 2
    for shard, table in tables.items():
        at, field = table.column_names.index("track_records"), table.schema.field("track_records")
        swapped = [listed.pop() if one else one for one in table["track_records"].to_pylist()]
        pq.write_table(table.set_column(at, field, pa.array(swapped, field.type)), shard)
    return edited


@dataclass(frozen=True)
class Published:
    """place: a folder with `photos`, `out` and `keystore`. clip: the one of two people. first, whole, again: what attempts
    reported, one after the other.
    """

    place: Path
    clip: MadeClip
    first: RunReport
    whole: RunReport
    again: RunReport

    def copied(self, place: Path) -> "Published":
        """The same elsewhere, for who changes it."""
        for name in ("out", "keystore"):
            shutil.copytree(self.place / name, place / name)
        return replace(self, place=place)


@pytest.fixture(scope="module")
def published(
    ray_cluster: Path, tmp_path_factory: pytest.TempPathFactory, face_png: bytes, face_jpeg: bytes
) -> Published:
    """A run over a clip of two people, one of nobody, and a broken one, in two attempts, and another that has nothing to do."""
    place = tmp_path_factory.mktemp("clips")
    (place / "photos").mkdir()
    portraits = [decode_picture(one) for one in (face_png, face_jpeg)]
    path = place / "photos" / "two people.mp4"
    clip = make_clip(path, portraits, seconds=FRAMES / 25, fps=25, size=(192, 144), story="moving")
    make_clip(place / "photos" / "without.mkv", [], seconds=0.2, fps=25, size=(96, 64), audio=False)
    (place / "photos" / "broken.mov").write_bytes(b"\0\0\0\x18ftypqt  no more of it")
    make = config_maker(place)
    first, *others = (run_anonymize(make(audio="keep", **more)) for more in ({"limit": 2}, {}, {}))
    return Published(place, clip, first, *others)


def test_a_clip_is_anonymized_in_two_attempts_joined_and_comes_back(
    ray_cluster: Path, tmp_path: Path, published: Published
) -> None:
    first, whole, clip, out = published.first, published.whole, published.clip, published.place / "out"
    assert (first.rows, first.clips) == (2, [])
    assert (whole.resumed_rows, whole.rows, whole.clips) == (2, 4, ["two people.mp4"])
    assert whole.statuses == {"anonymized": 2, "quarantined": 1, "no_face": 1}
    assert whole.clips_missing["broken.mov"].startswith("not_a_clip: ")
    assert whole.clips_missing["without.mkv"].startswith("no_face: ")
    joined = out / "clips" / "two people.mp4"
    assert packets_of(joined, "video") == packets_of(clip.path, "video")
    assert packets_of(joined, "audio") == packets_of(clip.path, "audio")
    assert published.again.clips == ["two people.mp4"]

    store = open_store(out)
    view = clip_view(store, "two people.mp4")
    assert (len(view.pieces), len(view.tracks), view.is_joined) == (2, 2, True)
    assert [piece.begin for piece in view.between(1.3, 1.4)] == [1.28]
    page = page_of(store, view)
    assert page.count("data:image/jpeg") == 2, "a face of each track, as it is published"
    assert "keyanon clips OUT &#39;two people.mp4&#39; --track N --ids" in page
    (broken,) = [one for one in clip_views(store) if one.name == "broken.mov"]
    assert not broken.is_joined and len(broken.missing) == 1

    with Keystore.open(published.place / "keystore") as keystore:
        keys = released(keystore)
        rows = {row.image_id: row for row in read_rows(out)}
        pieces = {name: row for name, row in rows.items() if row.status == "anonymized"}
        assert sorted(pieces) == [f"two people.mp4/{begin}.mp4" for begin in ("000000000", "000001280")]
        secret = [[keys[one] for one in row.record_ids] for row in pieces.values()]
        carriers = [{face.carrier_key for key in some for face in key.faces if face.mask.count} for some in secret]
        assert len(carriers[0]) == 2 and carriers[0] == carriers[1], "each person's faces are on one carrier"
        report = recovered(keystore, published.place, sorted(pieces), tmp_path / "restored")
    assert report.clips == ["two people.mp4.mkv"] and report.exit_code == 0
    restored, shows, source = (frames_of(one) for one in (tmp_path / "restored" / report.clips[0], joined, clip.path))
    assert len(restored) == len(shows) == len(source) == FRAMES
    for number, faces in enumerate(clip.truth):
        for shown in faces:
            x, y = np.clip(shown.landmarks.mean(0).round().astype(int), 4, [187, 139])
            window = slice(y - 4, y + 4), slice(x - 4, x + 4)
            assert np.array_equal(restored[number][window], source[number][window])
            assert np.abs(shows[number][window].astype(int) - source[number][window]).mean() > 8

    secrets = [face_carrier for some in carriers for face_carrier in some if face_carrier is not None]
    secrets += [key.image_key for some in secret for key in some]
    places = (out, published.place / "keystore", ray_cluster)
    files = [path for place in places for path in place.rglob("*") if path.is_file() and not path.is_symlink()]
    assert files and not [path for path in files if holds_key(path.read_bytes(), secrets)]


def test_one_person_is_asked_for_and_comes_back_alone(
    tmp_path: Path, published: Published, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = published.copied(tmp_path).clip
    store, out = open_store(tmp_path / "out"), str(tmp_path / "out")
    view = clip_view(store, "two people.mp4")
    chosen = view.tracks[-1].track
    assert main(["clips", out, "two people.mp4", "--track", str(chosen), "--ids"]) == 0
    asked = capsys.readouterr().out.split("\n")[:-1]
    assert asked == [f"{piece.row.image_id}#track-{chosen}" for piece in view.pieces]
    assert main(["clips", out, "two people.mp4", "--track", "7", "--ids"]) != 0
    assert "has a key record of track 7; tracks with one: 0, 1" in capsys.readouterr().err

    with Keystore.open(tmp_path / "keystore") as keystore:
        stored = keystore.find_records()
        assert len(stored) == sum(len(piece.row.record_ids) for piece in view.pieces) >= 4
        verification = verify_output(store, keystore)
        assert verification.disagreements == [] and verification.records == len(stored)
        assert (verification.unused_records, verification.awaiting, verification.erased) == (0, 0, 0)
        assert reconcile(store, keystore, remove=False).orphans == ()
        report = recovered(keystore, tmp_path, asked, tmp_path / "restored")
        both = keystore.request("ann", asked, "C-1", "test of the recovery", "consent", timedelta(hours=1)).images
        with pytest.raises(OutputError, match="which no run writes"):
            prepare(with_swapped_records(tmp_path / "out", tmp_path / "edited"), tmp_path / "no", both)
        assert keystore.erase(view.name, "Olga", image_id=asked[0]) == 0, "of another data set"
        erased = keystore.erase(stored[0].dataset, "Olga", image_id=asked[0])
        assert (erased, verify_output(store, keystore).erased) == (1, 1)
        assert verify_output(store, keystore).disagreements == []
    assert report.exit_code == 0 and report.clips == ["two people.mp4.mkv"]
    assert [(one.image_id, one.tracks) for one in report.pictures] == [
        (piece.row.image_id, [chosen]) for piece in view.pieces
    ]

    files = (tmp_path / "restored" / "two people.mp4.mkv", tmp_path / "out" / "clips" / "two people.mp4", clip.path)
    restored, shows, source = (np.stack(frames_of(file)) for file in files)
    came_back: dict[int, set[bool]] = {}
    for number, faces in enumerate(clip.truth):
        for shown in faces:
            x, y = np.clip(shown.landmarks.mean(0).round().astype(int), 4, [187, 139])
            window = number, slice(y - 4, y + 4), slice(x - 4, x + 4)
            back, was, true = restored[window], shows[window], source[window]
            came_back.setdefault(shown.person, set()).add(np.array_equal(back, true))
            assert np.array_equal(back, true) != np.array_equal(back, was)
    assert sorted(came_back.values(), key=str) == [{False}, {True}], "one of the two in every frame, the other in none"


def test_clips_in_a_column_of_parquet_are_joined_in_two_attempts_beside_what_their_rows_say(
    tmp_path: Path, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, face_png: bytes
) -> None:
    (tmp_path / "photos").mkdir()
    made = [
        make_clip(tmp_path / name, [decode_picture(face_png)], seconds=0.4, fps=25, size=(160, 120))
        for name in ("a.mp4", "b.mkv")
    ]
    cells = [{"bytes": one.path.read_bytes(), "path": one.path.name} for one in made]
    rows = {
        "id": ["walk", "../desk", "desk/b", "bad"],
        "video": [*cells[:1], *cells, {"bytes": b"\0\0\0\x18ftypqt  no more", "path": None}],
        "who": ["anna", "cleo", "bert", None],
        "caption": ["v", "w", "x", "y"],
    }
    pq.write_table(pa.table(rows), tmp_path / "photos" / "x.parquet", row_group_size=2)
    settings = {"image_column": "video", "id_column": "id", "subject_column": "who", "audio": "keep"}
    run_in_process(monkeypatch)
    first = run_anonymize(make_config(**settings, limit=2))
    assert (first.rows, first.clips) == (2, [])
    whole = run_anonymize(make_config(**settings))
    assert (whole.resumed_rows, whole.clips) == (2, ["desk/b.mkv", "walk.mp4"])
    assert {name: why.split(":")[0] for name, why in whole.clips_missing.items()} == {
        "bad.mov": "not_a_clip",
        "x.parquet#1": "bad_id",
    }
    for clip, name in zip(made, ("walk.mp4", "desk/b.mkv"), strict=True):
        joined = tmp_path / "out" / "clips" / name
        assert packets_of(joined, "video") == packets_of(clip.path, "video")
        assert packets_of(joined, "audio") == packets_of(clip.path, "audio")
    table = pq.read_table(tmp_path / "out" / "clips.parquet").to_pydict()
    assert table == {**rows, "video": ["clips/walk.mp4", None, "clips/desk/b.mkv", None]}
    with Keystore.open(tmp_path / "keystore") as keystore:
        assert verify_output(open_store(tmp_path / "out"), keystore).disagreements == []
        erased = keystore.erase(keystore.find_records()[0].dataset, "Olga", subject="bert")
        assert erased == sum(len(row.record_ids) for row in read_rows(tmp_path / "out") if "desk" in row.image_id) > 0


def test_a_clip_in_which_nobody_is_found_is_published_where_it_is_to_pass(
    tmp_path: Path, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photos").mkdir()
    make_clip(tmp_path / "photos" / "nobody.mkv", [], seconds=0.2, fps=25, size=(96, 64), audio=False)
    run_in_process(monkeypatch)
    passed = run_anonymize(make_config(no_face="pass"))
    assert (passed.statuses, passed.clips) == ({"no_face": 1}, ["nobody.mkv"])
