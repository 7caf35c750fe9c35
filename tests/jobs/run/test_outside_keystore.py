"""A run that knows a public key and an inbox: it publishes, waits, and is completed by the same call."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.errors import KeysWaitingError
from jobs.output.manifest import COMPLETE, WAITING
from jobs.run.anonymize import run_anonymize
from keystore.auditor import Auditor
from keystore.embedded import Keystore
from keystore.ingest_opening import IngestOpening
from keystore.served import ServedKeystore
from tests.jobs.conftest import MakeConfig
from tests.jobs.in_process import run_in_process
from tests.keystore.serving import Served

pytestmark = pytest.mark.slow
INBOXES = ("folder", "served")


@pytest.fixture(params=INBOXES)
def inbox(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, dict[str, Any], str]]:
    """The folder that ingest looks into, the settings of a run that hands its keys in there, and what nobody may see."""
    Keystore.create(tmp_path / "ks").close()
    key = Auditor(tmp_path / "ks").ingest_key()
    if request.param == "folder":
        (tmp_path / "inbox").mkdir()
        (tmp_path / "key").write_text(key.text())
        yield tmp_path / "inbox", {"inbox": tmp_path / "inbox", "ingest_key": tmp_path / "key"}, ""
        return
    served = Served(tmp_path / "ks", None)
    token_file = served.token_file(tmp_path / "token", "pseudonyms", "job", "d")
    (tmp_path / "subjects.csv").write_text("file,subject\na.png,ada\nb.png,ada\n")
    yield (
        tmp_path / "ks" / "inbox",
        {
            "inbox": served.url,
            "token_file": token_file,
            "ingest_key": f"{served.url}/v1/ingest-key#sha256={key.fingerprint}",
            "subjects": tmp_path / "subjects.csv",
            "pseudonyms": "consistent",
        },
        served.token("pseudonyms", "job", "d").split("_")[2],
    )
    served.stop()


def test_a_run_with_a_public_key_ends_when_its_keys_are_taken_in(
    make_config: MakeConfig,
    inbox: tuple[Path, dict[str, Any], str],
    tmp_path: Path,
    face_png: bytes,
    ray_cluster: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Into a folder it goes in two segments, as a large one does. By HTTPS its workers ask for pseudonyms too."""
    folder, settings, secret = inbox
    if not secret:
        run_in_process(monkeypatch)
        monkeypatch.setattr("jobs.run.anonymize.SEGMENT_ROWS", 1)
    (tmp_path / "photos").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / "photos" / name).write_bytes(face_png)
    config = make_config(
        keystore=None,
        **settings,
        receipt_seconds=0,
        dataset="d",
        pictures_per_task=1,
    )
    manifest = tmp_path / "out" / "_keyanon" / "manifest.json"
    with pytest.raises(KeysWaitingError, match="keys of 2 rows wait"):
        run_anonymize(config)
    run = json.loads(manifest.read_text())
    assert run["config"]["ingest_key"] == str(settings["ingest_key"])
    assert run["state"] == WAITING and len(list((tmp_path / "out" / "images").iterdir())) == 2
    with IngestOpening.open(tmp_path / "ks", receipts=True, inbox=folder) as taker:
        taker.inbox(run["run_id"], "d")
        taker.ingest(run["run_id"])
    report = run_anonymize(config)
    assert (report.resumed_rows, report.keys_stored, report.inbox) == (2, 2, str(settings["inbox"]))
    assert json.loads(manifest.read_text())["state"] == COMPLETE
    here = {name: settings[name] for name in ("subjects", "pseudonyms") if name in settings}
    again = run_anonymize(make_config(keystore=tmp_path / "ks", dataset="d", **here))  # the same keystore, opened here
    assert again.resumed_rows == 2 and again.pseudonyms == ({"shown": 2, "several": 0, "without": 0} if here else {})
    if secret:
        written = [path for root in (ray_cluster, tmp_path / "out") for path in root.rglob("*") if path.is_file()]
        assert written and not [path for path in written if secret.encode() in path.read_bytes()]
    with ServedKeystore.open(tmp_path / "ks") as opened:
        assert {view.image_id for view in opened.find_records()} == {"a.png", "b.png"}
        settled = opened.pseudonyms.secrets("d", ["ada"])["ada"].number if here else 0
    assert settled is not None, "by the first picture that passed the gate"
