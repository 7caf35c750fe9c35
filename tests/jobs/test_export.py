"""A run over tar shards, from the shards to recovered pictures and back into shards."""

import errno
import io
import json
import os
import shutil
import tarfile
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO

import pytest

from jobs.commands.cli import main
from jobs.errors import ConfigError, JobError, MachineError, PublishError
from jobs.exit_codes import ExitCode
from jobs.export import MARKER, ExportReport, export_tars
from jobs.output.reader import OutputError, read_rows
from jobs.output.verify import verify_output
from jobs.run.anonymize import run_anonymize
from jobs.storage import multipart
from jobs.storage.local import LocalStore
from jobs.storage.opening import open_store
from keystore.embedded import Keystore
from keystore.errors import ErasureError
from tests.jobs.conftest import ONE_WORKER
from tests.jobs.seaweed import BUCKET, Seaweed
from tests.jobs.sources.test_tar_shards import shard

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("without_a_cluster")]

JSON = b'{"caption": "a woman"}'
DAMAGED = "damaged.tar"


@pytest.fixture(scope="module")
def finished(
    without_a_cluster: None, tmp_path_factory: pytest.TempPathFactory, face_png: bytes, face_jpeg: bytes
) -> Path:
    """photos, keystore and out of a complete run."""
    from jobs.config import AnonymizeConfig

    root = tmp_path_factory.mktemp("tar")
    (root / "photos" / "train").mkdir(parents=True)
    (root / "photos" / "train" / "0.tar").write_bytes(
        shard(
            ("./a.jpg", face_jpeg), ("./a.json", JSON), ("a.npy", b"pixels"), ("a.cls", b"7"),
            ("b.png", b"no picture"), ("b.txt", b"nothing"),
            ("c/x.left.png", face_png), ("c/x.right.png", b"no picture"), ("c/x.txt", b"two eyes"),
            ("notes", b"of no sample"),
        )
    )  # fmt: skip
    whole = shard(("z.png", face_png), ("z.cls", b"1"), ("y.jpg", face_jpeg))
    (root / "photos" / DAMAGED).write_bytes(whole[: whole.index(b"y.jpg") + 2000])
    quick = {"steps": 1, "fidelity": "lossless", "gate_threshold": 0.1, **ONE_WORKER}
    subjects = root / "subjects.csv"
    subjects.write_text(f"file,subject\ntrain/0.tar/a.jpg,Ann\n{DAMAGED}/z.png,Ann\n")
    quick["subjects"] = subjects
    places = {"photos": root / "photos", "output": root / "out", "keystore": root / "keystore"}
    report = run_anonymize(AnonymizeConfig.load(None, {**places, **quick}))
    assert report.statuses["anonymized"] == 3
    return root


@pytest.fixture
def root(finished: Path, tmp_path: Path) -> Path:
    """A run of the test's own."""
    shutil.copytree(finished, tmp_path / "run", copy_function=shutil.copy2)
    return tmp_path / "run"


def export(root: Path, name: str = "tars", *keep: str) -> ExportReport:
    return export_tars(root / "out", root / name, str(root / "photos"), keep)


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {one.name: file.read() for one in tar if (file := tar.extractfile(one)) is not None}


def published(root: Path) -> dict[str, bytes]:
    """By the ids of the sources."""
    return {row.image_id: (root / "out" / row.output).read_bytes() for row in read_rows(root / "out") if row.output}


def test_pictures_come_back_in_their_places_and_text_beside_them(root: Path, face_jpeg: bytes, face_png: bytes) -> None:
    report = export(root)
    pictures = published(root)
    found = members(root / "tars" / "train" / "0.tar")
    assert list(found) == ["a.jpg", "a.json", "a.cls"]
    assert found == {"a.jpg": pictures["train/0.tar/a.jpg"], "a.json": JSON, "a.cls": b"7"}
    assert members(root / "tars" / DAMAGED) == {"z.png": pictures[f"{DAMAGED}/z.png"], "z.cls": b"1"}
    assert (report.shards, report.pictures, report.siblings, report.samples_left_out) == (2, 2, 3, 2)
    assert report.left_out == {".npy": 1, "(none)": 1} and report.damaged == [DAMAGED]
    exported = b"".join(path.read_bytes() for path in (root / "tars").rglob("*.tar"))
    assert face_jpeg not in exported and face_png not in exported


@pytest.mark.parametrize(("number", "fault"), [(errno.ENOSPC, MachineError), (errno.EACCES, PublishError)])
def test_an_export_that_met_a_full_disk_goes_on_when_there_is_room(
    root: Path, monkeypatch: pytest.MonkeyPatch, number: int, fault: type[JobError]
) -> None:
    write = LocalStore.writing

    def full(store: LocalStore, name: str) -> AbstractContextManager[IO[bytes]]:
        if name == DAMAGED:
            raise OSError(number, "as the system says")
        return write(store, name)

    with monkeypatch.context() as patched:
        patched.setattr(LocalStore, "writing", full)
        with pytest.raises(fault, match=r"as the system says.*goes on"):
            export(root)
    export(root)
    assert members(root / "tars" / "train" / "0.tar") and members(root / "tars" / DAMAGED)


def test_more_members_are_kept_when_they_are_asked_for_but_no_source_picture(root: Path) -> None:
    export(root, "tars", "*.npy", "*.png", "*")
    found = members(root / "tars" / "train" / "0.tar")
    assert list(found) == ["a.jpg", "a.json", "a.npy", "a.cls", "notes"] and found["a.npy"] == b"pixels"


def given(root: Path, tar: bytes) -> Path:
    """The run's own 0.tar exchanged for another of the same pictures, as if the run had seen it."""
    path = root / "photos" / "train" / "0.tar"
    before = path.stat()
    path.write_bytes(tar)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    return path


def others(face_png: bytes) -> list[tuple[str, bytes]]:
    """The pictures of 0.tar that are not exported."""
    return [("b.png", b"no picture"), ("c/x.left.png", face_png), ("c/x.right.png", b"no picture")]


def exported(root: Path, tar: bytes, *keep: str) -> tuple[ExportReport, dict[str, bytes]]:
    """Of 0.tar alone, by the writer of shards itself."""
    from jobs.config import AnonymizeConfig
    from jobs.export import _Export
    from jobs.sources.source import open_shards

    given(root, tar)
    manifest = json.loads((root / "out" / "_keyanon" / "manifest.json").read_text())
    config = AnonymizeConfig.load(None, {**manifest["config"], "photos": root / "photos", "output": root / "out"})
    shards = open_shards(config)
    assert shards is not None
    report = _Export(open_store(root / "out"), shards, open_store(root / "tars"), keep).write_all()
    return report, members(root / "tars" / "train" / "0.tar")


def test_what_is_no_text_is_not_carried_over_for_its_name(root: Path, face_jpeg: bytes, face_png: bytes) -> None:
    tar = shard(
        ("a.jpg", face_jpeg), ("a.txt", face_jpeg), ("a.json", b"{\0}"), ("a.cls", b"7"), ("a.csv", b"1" * (1 << 20)),
        ("a.tsv", b"1" * ((1 << 20) + 1)), *others(face_png),
    )  # fmt: skip
    report, found = exported(root, tar)
    assert list(found) == ["a.jpg", "a.cls", "a.csv"] and report.left_out == {".txt": 1, ".json": 1, ".tsv": 1}


def test_a_member_that_would_reach_into_the_next_ends_its_shard(root: Path, face_jpeg: bytes) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", pax_headers={"size": "4000"}) as tar:
        for name, content in (("0.cls", b"5"), ("a.jpg", face_jpeg)):
            header = tarfile.TarInfo(name)
            header.size = len(content)
            tar.addfile(header, io.BytesIO(content))
    report, found = exported(root, buffer.getvalue(), "*")
    assert found == {} and "train/0.tar" in report.damaged


def test_a_shard_that_ends_within_its_text_is_written_up_to_there(root: Path, face_jpeg: bytes) -> None:
    tar = shard(("a.jpg", face_jpeg), ("a.cls", b"7"), ("a.txt", b"x" * 5000))
    report, found = exported(root, tar[: tar.index(b"xxxx") + 1000])
    assert list(found) == ["a.jpg", "a.cls"] and "train/0.tar" in report.damaged


@pytest.mark.parametrize("time", ["nan", "inf", "-1e300"])
def test_a_time_that_is_none_ends_nothing(root: Path, face_jpeg: bytes, face_png: bytes, time: str) -> None:
    changed = {"a.cls": {"pax_headers": {"mtime": time}}}
    tar = shard(("a.jpg", face_jpeg), ("a.cls", b"7"), *others(face_png), changed=changed)
    assert list(exported(root, tar)[1]) == ["a.jpg", "a.cls"]


def test_an_export_that_was_killed_goes_on_and_a_finished_one_does_nothing(root: Path) -> None:
    export(root)
    whole = {path: path.read_bytes() for path in (root / "tars").rglob("*.tar")}
    lost = root / "tars" / "train" / "0.tar"
    lost.rename(lost.with_name(".0.tar.part"))
    lost.with_name(".0.tar.part").write_bytes(whole[lost][:700])
    again = export(root)
    assert (again.shards, again.there) == (1, 1)
    assert {path: path.read_bytes() for path in (root / "tars").rglob("*") if path.suffix in (".tar", ".part")} == whole
    assert (export(root).shards, export(root).there) == (0, 2)


def test_other_rows_or_other_siblings_need_another_folder(root: Path) -> None:
    export(root)
    with pytest.raises(PublishError, match="keep differ"):
        export(root, "tars", "*.npy")
    (row_shard, *_) = sorted((root / "out" / "rows").iterdir())
    end = row_shard.stem[-1]
    row_shard.rename(row_shard.with_stem(row_shard.stem[:-1] + ("0" if end == "f" else "f")))
    with pytest.raises(PublishError, match="rows differ"):
        export(root)
    (root / "other").mkdir()
    (root / "other" / "file").touch()
    with pytest.raises(PublishError, match="holds other files"):
        export(root, "other")
    (root / "tars" / MARKER).write_text("[]")
    with pytest.raises(PublishError, match="damaged"):
        export(root)


def test_a_picture_that_is_not_what_its_row_lists_is_not_exported(root: Path) -> None:
    path = root / "out" / "images" / "train" / "0.tar" / "a.jpg"
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(OutputError, match="a.jpg is not what its row lists"):  # noqa: RUF043
        export(root)
    path.unlink()
    with pytest.raises(OutputError, match="is missing"):
        export(root)
    assert not (root / "tars" / "train" / "0.tar").exists()


def test_a_source_that_has_changed_or_grown_is_refused(root: Path) -> None:
    path = root / "photos" / "more.tar"
    path.write_bytes(shard(("new.jpg", b"x")))
    with pytest.raises(PublishError, match="have no row"):
        export(root)
    path.unlink()
    at = root / "photos" / "train" / "0.tar"
    before = at.stat()
    os.utime(at, (1, 1))
    with pytest.raises(PublishError, match="have changed since"):
        export(root)
    at.write_bytes(shard(("b.png", b"no picture")))
    os.utime(at, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(PublishError, match=r"0\.tar/a\.jpg is not in its shard any more"):
        export(root)
    at.unlink()
    with pytest.raises(PublishError, match=r"0\.tar/.* and its shard are not in the input"):
        export(root)
    assert not (root / "tars" / "train").exists()


def test_places_apart_complete_runs_and_tar_shards_only(root: Path, face_png: bytes) -> None:
    for name in ("out/tars", "photos", "."):
        with pytest.raises(ConfigError, match="overlap"):
            export(root, name)
    (root / "pictures").mkdir()
    (root / "pictures" / "a.png").write_bytes(face_png)
    with pytest.raises(ConfigError, match="no tar shards"):
        export_tars(root / "out", root / "tars", str(root / "pictures"))
    manifest = root / "out" / "_keyanon" / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "state": "running"}))
    with pytest.raises(PublishError, match="not complete"):
        export(root)
    with pytest.raises(PublishError, match="no run of keyanon wrote it"):
        export_tars(root / "photos", root / "tars")


def test_a_run_over_shards_is_verified_resumed_and_exported_by_commands(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not verify_output(open_store(finished / "out"), None).disagreements
    out = str(finished / "out")
    command = ["anonymize", str(finished / "photos"), "-o", out, "-k", str(finished / "keystore"), "--steps", "1"]
    command += [
        "--subjects",
        str(finished / "subjects.csv"),
        "--fidelity",
        "lossless",
        "--gate-threshold",
        "0.1",
        "--threads-per-actor",
        "1",
    ]
    assert main([*command, "--json"]) == ExitCode.OK
    assert json.loads(capsys.readouterr().out)["resumed_rows"] == sum(1 for _ in read_rows(finished / "out"))
    assert main(["export", out, str(tmp_path / "tars"), "--json"]) == ExitCode.OK
    said = json.loads(capsys.readouterr().out)
    assert (said["kind"], said["pictures"], said["left_out"]) == ("export", 2, {".npy": 1, "(none)": 1})
    assert io.BytesIO(members(tmp_path / "tars" / DAMAGED)["z.png"]).read(4) == b"\x89PNG"


def test_pictures_of_one_subject_are_erased_together_and_no_other(root: Path) -> None:
    with Keystore.open(root / "keystore") as keystore:
        with pytest.raises(ErasureError, match="erase the subject, with all its images"):
            keystore.erase("photos", "olga", image_id="train/0.tar/a.jpg")
        assert keystore.erase("photos", "olga", subject="Bea") == 0
        assert keystore.erase("photos", "olga", subject="Ann") == 2
        found = verify_output(open_store(root / "out"), keystore)
        assert (found.disagreements, found.erased, found.records) == ([], 2, 1)


def test_an_export_into_a_bucket_that_is_stopped_goes_on_and_meets_another(
    finished: Path, tmp_path: Path, s3: Seaweed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multipart, "PART_BYTES", 5 << 20)
    large = b"n" * (6 << 20)
    root = tmp_path / "run"
    shutil.copytree(finished, root, copy_function=shutil.copy2)
    at = root / "photos" / "train" / "0.tar"
    with tarfile.open(at) as tar:
        whole = [(one.name, file.read()) for one in tar if (file := tar.extractfile(one)) is not None]
    given(root, shard(*whole, ("a.bin", large)))
    target = f"s3://{BUCKET}/tars"

    def go() -> ExportReport:
        return export_tars(root / "out", target, str(root / "photos"), ["*.bin"])

    finish = multipart.Upload.finish

    def stopped(upload: multipart.Upload) -> None:
        if "0.tar" in upload.name:
            raise KeyboardInterrupt
        finish(upload)

    monkeypatch.setattr(multipart.Upload, "finish", stopped)
    with pytest.raises(KeyboardInterrupt):
        go()
    assert s3.names("tars") == {MARKER, DAMAGED}
    assert "Uploads" not in s3.client().list_multipart_uploads(Bucket=BUCKET)

    def overtaken(upload: multipart.Upload) -> None:
        monkeypatch.setattr(multipart.Upload, "finish", finish)
        assert (go().shards, go().there) == (1, 2), "another export is done while this one was at it"
        finish(upload)

    monkeypatch.setattr(multipart.Upload, "finish", overtaken)
    report = go()
    assert (report.shards, report.there) == (0, 2)
    (tmp_path / "0.tar").write_bytes(s3.get("tars/train/0.tar"))
    export(root, "tars", "*.bin")
    assert (tmp_path / "0.tar").read_bytes() == (root / "tars" / "train" / "0.tar").read_bytes()
    assert members(tmp_path / "0.tar")["a.bin"] == large
    s3.put("other/file", b"")
    with pytest.raises(PublishError, match="holds other files"):
        export_tars(root / "out", f"s3://{BUCKET}/other", str(root / "photos"))
    with pytest.raises(PublishError, match="keep differ"):
        export_tars(root / "out", target, str(root / "photos"))
