"""Consistent pseudonyms from the photographs to an approved recovery: in one run, resumed, and in a later one."""

import contextlib
import io
import json
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from PIL import Image, ImageOps

from jobs.errors import ConfigError, PublishError
from jobs.output.reader import Row, read_rows
from jobs.run.anonymize import run_anonymize
from jobs.run.cluster import check_pseudonyms_are_near
from jobs.run.key_records import to_picture_key
from keyanon_core.pictures.key import PictureKey
from keyanon_core.pictures.recoverer import PictureRecoverer
from keyanon_core.priors import load_prior
from keyanon_core.pseudonyms import carrier_key
from keystore.embedded import Keystore
from keystore.naming_opening import NamingOpening
from keystore.recipient import Expected, Recipient
from tests.jobs.conftest import MakeConfig
from tests.jobs.in_process import run_in_process
from tests.jobs.key_search import holds_key

pytestmark = pytest.mark.slow


def mirrored(picture: bytes) -> bytes:
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(picture)) as opened:
        ImageOps.mirror(opened.convert("RGB")).save(buffer, "PNG")
    return buffer.getvalue()


def released(keystore: Keystore) -> dict[str, PictureKey]:
    """By record id, the keys of all pictures: asked for by one person and approved by two."""
    ids = [view.record_id for view in keystore.find_records()]
    request = keystore.request("ann", ids, "C-1", "test of the recovery", "consent", timedelta(hours=1))
    for person in ("bob", "cleo"):
        keystore.approve(request.request_id, person, request.digest)
    recipient, view = Recipient.generate(), keystore.show(request.request_id)
    sealed = keystore.release(request.request_id, recipient.public_key, "ann")
    return {
        one.record_id: to_picture_key(one) for one in recipient.open(sealed, Expected.of(view, keystore.audit_vkey))
    }


def test_one_person_has_one_carrier_in_a_run_resumed_and_later_and_comes_back(
    ray_cluster: Path,
    tmp_path: Path,
    make_config: MakeConfig,
    monkeypatch: pytest.MonkeyPatch,
    face_png: bytes,
    face_jpeg: bytes,
) -> None:
    sources = {"grace": face_jpeg, "eileen": face_png, "grace again": mirrored(face_jpeg), "nobody": face_png}
    (tmp_path / "photos").mkdir()
    table = pa.table({"id": list(sources), "image": list(sources.values()), "who": ["G", "E", "G", None]})
    pq.write_table(table, tmp_path / "photos" / "part.parquet")
    asked = {"id_column": "id", "subject_column": "who", "pseudonyms": "consistent", "dataset": "d"}
    first = run_anonymize(make_config(**asked, limit=2))
    assert (first.subjects, first.pseudonyms) == (2, {"shown": 2, "several": 0, "without": 0})
    with pytest.raises(PublishError, match=r"payload_share: 0\.2, and now 0\.3"):
        run_anonymize(make_config(**asked, payload_share=0.3))
    run_in_process(monkeypatch)
    whole = run_anonymize(make_config(**asked))
    assert (whole.resumed_rows, whole.subjects, whole.pseudonyms) == (2, 1, {"shown": 3, "several": 0, "without": 1})
    assert "payload share 0.2" in whole.procedure
    said = json.loads((tmp_path / "out/_keyanon/manifest.json").read_text())["config"]
    assert (said["pseudonyms"], said["payload_share"]) == ("consistent", 0.2)
    later = make_config(**asked, limit=1, output=tmp_path / "later")
    run_anonymize(later)

    with Keystore.open(later.keystore) as keystore:
        keys = released(keystore)
    rows = {place: {row.image_id: row for row in read_rows(tmp_path / place)} for place in ("out", "later")}
    carriers = {(place, name): carrier_of(row, keys) for place, named in rows.items() for name, row in named.items()}
    assert carriers["out", "grace"] == carriers["out", "grace again"] == carriers["later", "grace"]
    assert (
        None not in (mine := carriers["out", "grace"], carriers["out", "eileen"]) and mine != carriers["out", "eileen"]
    )
    assert carriers["out", "nobody"] is None

    with contextlib.closing(NamingOpening.open(later.keystore)) as naming:
        found = naming.pseudonyms.secrets("d", ["G", "E"])
    assert found["G"].number is not None and carrier_key(found["G"].secret, found["G"].number) == mine
    secrets = [one.secret for one in found.values()] + [key for key in carriers.values() if key is not None]
    places = (tmp_path / "out", tmp_path / "later", later.keystore, ray_cluster)
    files = [path for place in places for path in place.rglob("*") if path.is_file() and not path.is_symlink()]
    assert files and not [path for path in files if holds_key(path.read_bytes(), secrets)]

    made = {
        row["image_id"]: row for path in (tmp_path / "out/rows").iterdir() for row in pq.read_table(path).to_pylist()
    }
    assert {name: row["pseudonym"] for name, row in made.items()} == {name: name != "nobody" for name in sources}
    recoverer = PictureRecoverer(load_prior("embedded"))
    for name, row in made.items():
        recovered = recoverer.recover(row["image"], row["keyanon_sidecar"], keys[row["record_id"]])
        with Image.open(io.BytesIO(sources[name])) as source:
            assert np.array_equal(recovered.pixels, np.asarray(source.convert("RGB"))), name


def carrier_of(row: Row, keys: dict[str, PictureKey]) -> bytes | None:
    assert row.record_id is not None, row.reason
    (face,) = keys[row.record_id].faces
    assert keys[row.record_id].payload_share == (1.0 if face.carrier_key is None else 0.2)
    return face.carrier_key


def test_a_keystore_here_is_not_asked_from_other_machines(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = make_config(subject_column="who", pseudonyms="consistent")
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "NodeManagerAddress": f"10.0.0.{at}"} for at in (1, 2)])
    with pytest.raises(ConfigError, match="the cluster has 2 machines"):
        check_pseudonyms_are_near(asked)
    check_pseudonyms_are_near(make_config())
