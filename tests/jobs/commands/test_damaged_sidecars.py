"""A hostile sidecar costs its own picture at most: neither the grant nor the other pictures of the request."""

import json
import shutil
import struct
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from jobs.commands.cli import main
from jobs.exit_codes import ExitCode
from keyanon_core.sidecar import MAX_SIDECAR_BYTES, Sidecar
from keystore.embedded import Keystore
from tests.jobs.conftest import OF_ONE_WORKER

from .conftest import Ended, Keyanon

pytestmark = pytest.mark.slow

REQUESTER = "ines"
PICTURES = ("a.png", "b.jpg", "c.png")


@pytest.fixture(scope="module")
def finished(
    without_a_cluster: None, tmp_path_factory: pytest.TempPathFactory, face_png: bytes, face_jpeg: bytes
) -> Path:
    """A folder with the output `out` and the keystore `keystore` of one run over three pictures of a face."""
    root = tmp_path_factory.mktemp("run")
    (root / "photos").mkdir()
    for name, content in zip(PICTURES, (face_png, face_jpeg, face_png), strict=True):
        (root / "photos" / name).write_bytes(content)
    arguments = ["anonymize", root / "photos", "-o", root / "out", "-k", root / "keystore"]
    options = ["--fidelity", "lossless", "--steps", "2", *OF_ONE_WORKER, "--gate-threshold", "0.01"]
    assert main([str(one) for one in (*arguments, *options)]) == ExitCode.OK
    return root


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    for part in ("out", "keystore"):
        shutil.copytree(finished / part, tmp_path / part)
    return tmp_path


@pytest.fixture
def granted(run: Path) -> str:
    with Keystore.open(run / "keystore") as keystore:
        view = keystore.request(
            REQUESTER, list(PICTURES), "C-17", "identify", "court-order: StPO 98a", timedelta(hours=1)
        )
        for person in ("dora", "carl"):
            keystore.approve(view.request_id, person, view.digest)
    return view.request_id


def sidecar_of(run: Path, name: str) -> Path:
    (path,) = (path for path in (run / "out").rglob("*.keyanon") if path.name.startswith(name))
    return path


def recover(keyanon: Keyanon, run: Path, granted: str, *options: str) -> Ended:
    places = ("--input", run / "out", "--output", run / "restored", "--as", REQUESTER)
    return keyanon("recover", run / "keystore", granted, *places, *options, "--json")


def state_of(run: Path, request: str) -> str:
    with Keystore.open(run / "keystore") as keystore:
        return str(keystore.show(request).state)


def _header(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def _with_faces(value: str) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        length = struct.unpack_from("<Q", data)[0]
        container = json.loads(data[8 : 8 + length])
        header = container["__metadata__"]["keyanon"].replace('"faces": 1', f'"faces": {value}')
        container["__metadata__"]["keyanon"] = header
        return _header(json.dumps(container)) + data[8 + length :]

    return change


HOSTILE: dict[str, Callable[[bytes], bytes]] = {
    "nested": lambda data: _header("[" * 100_000),
    "endless": _with_faces("1e400"),
    "many": _with_faces("4096"),
    "huge": lambda data: bytes(MAX_SIDECAR_BYTES + 1),
    "another prior": lambda data: replace(
        Sidecar.from_bytes(data), fidelity="latent", prior_digest="\x1b[31m" * 50
    ).to_bytes(),
}


@pytest.mark.parametrize("kind", sorted(HOSTILE))
def test_a_hostile_sidecar_is_named_and_leaves_the_grant_unused(
    keyanon: Keyanon, run: Path, granted: str, kind: str
) -> None:
    path = sidecar_of(run, "b.jpg")
    path.write_bytes(HOSTILE[kind](path.read_bytes()))
    ended = recover(keyanon, run, granted)
    if kind == "another prior":
        assert ended.code == ExitCode.INPUT and "--prior" in ended.json["message"]
    else:
        assert (ended.code, ended.json["error"]) == (ExitCode.WRONG_KEY_OR_TAMPERED, "SidecarError"), ended.err
        assert "b.jpg" in ended.json["message"]
    assert len(ended.json["message"]) < 500
    assert state_of(run, granted) == "approved"


@pytest.mark.parametrize("kind", ["nested", "endless", "another prior"])
def test_the_others_are_restored_when_the_caller_says_so(keyanon: Keyanon, run: Path, granted: str, kind: str) -> None:
    path = sidecar_of(run, "b.jpg")
    path.write_bytes(HOSTILE[kind](path.read_bytes()))
    (published,) = (run / "out" / "images").glob("c.png*")
    published.write_bytes(b"torn")
    ended = recover(keyanon, run, granted, "--skip-damaged")
    assert ended.code == (ExitCode.INPUT if kind == "another prior" else ExitCode.WRONG_KEY_OR_TAMPERED)
    became = {picture["image_id"]: picture for picture in ended.json["pictures"]}
    assert {name: picture["status"] for name, picture in became.items()} == {
        "a.png": "recovered",
        "b.jpg": "failed",
        "c.png": "failed",
    }
    assert became["b.jpg"]["reason"].startswith("b.jpg: ") and became["c.png"]["reason"].startswith("c.png: ")
    assert [path.name for path in (run / "restored").rglob("*.png")] == [Path(became["a.png"]["output"]).name]
    assert json.loads((run / "restored" / "report.json").read_text()) == ended.json


def test_nothing_is_skipped_down_to_nothing(keyanon: Keyanon, run: Path, granted: str) -> None:
    for path in (run / "out").rglob("*.keyanon"):
        path.write_bytes(HOSTILE["nested"](b""))
    ended = recover(keyanon, run, granted, "--skip-damaged")
    assert ended.code == ExitCode.WRONG_KEY_OR_TAMPERED
    assert state_of(run, granted) == "approved"
