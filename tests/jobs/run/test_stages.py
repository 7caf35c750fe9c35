"""The stages in this process, with the real prior and face models: one row out for each row in, and no key in a block."""

import json
import logging
import re
import subprocess
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from jobs.blocks import (
    ENCODED,
    FACES,
    FAILURE,
    ID,
    OUTPUT,
    PERMANENT,
    REASON,
    RECORD_ID,
    ROW,
    SEALED,
    SIDECAR,
    SOURCE_HMAC,
    STATUS,
    SUBJECT,
    source_table,
)
from jobs.blocks import FIDELITY as STORED_AT
from jobs.blocks import PSEUDONYM as SHOWS_PSEUDONYM
from jobs.errors import MachineError
from jobs.run.anonymize_stage import AnonymizeFaces, Compute, SealingTarget, environment
from jobs.run.detect_stage import DetectFaces, FaceModelChoice
from jobs.run.progress import Monitor
from keyanon_core.errors import FaceModelError, PriorError
from keyanon_core.pictures.settings import AnonymizeSettings, PictureResult, PictureTask
from keyanon_core.priors import load_prior
from keyanon_core.pseudonyms import carrier_key
from keystore.embedded import Keystore
from keystore.intake.sealing import sealed_header
from tests.jobs.conftest import FIDELITY, OPEN_GATE, STEPS
from tests.jobs.key_search import holds_key

pytestmark = pytest.mark.slow

RUN, DATASET = "run-1", "holiday"
CANARY = bytes(range(200, 232))
PSEUDONYM = bytes(range(100, 132))


class Door:
    """Of pseudonyms, all of one secret; subjects none of whose carriers was settled before."""

    def secrets(self, subjects: Collection[str]) -> dict[str, tuple[bytes, int | None]]:
        return dict.fromkeys(subjects, (PSEUDONYM, None))

    def settle(self, subject: str, number: int) -> int:
        return number


@pytest.fixture(scope="module")
def monitor(ray_cluster: Path) -> Monitor:
    return Monitor()


@pytest.fixture(scope="module")
def ingest_key(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    with Keystore.create(tmp_path_factory.mktemp("keystore") / "k") as keystore:
        return keystore.ingest_public_key


@pytest.fixture(scope="module")
def detect(monitor: Monitor) -> DetectFaces:
    return DetectFaces(FaceModelChoice("embedded"), 10_000_000, monitor)


@pytest.fixture(scope="module")
def anonymize(monitor: Monitor, ingest_key: bytes) -> AnonymizeFaces:
    settings = AnonymizeSettings(steps=STEPS, fidelity=FIDELITY, gate_threshold=OPEN_GATE, payload_share=0.2)
    return AnonymizeFaces(
        "embedded",
        FaceModelChoice("embedded"),
        settings,
        SealingTarget(RUN, DATASET, ingest_key),
        Compute(),
        None,
        monitor,
        Door(),
    )


def block(pictures: Sequence[tuple[str, bytes | None, str]]) -> pa.Table:
    rows = [{ROW: at, ID: name, ENCODED: data, FAILURE: failure} for at, (name, data, failure) in enumerate(pictures)]
    return source_table(rows, pa.table({"label": pa.array(range(len(rows)), pa.int16())}))


def serialized(table: pa.Table) -> bytes:
    buffer = pa.BufferOutputStream()
    with pa.ipc.new_stream(buffer, table.schema) as writer:
        writer.write_table(table)
    return buffer.getvalue().to_pybytes()


def test_a_failed_row_passes_through_both_stages(
    detect: DetectFaces, anonymize: AnonymizeFaces, face_png: bytes
) -> None:
    found = detect(block([("lost", None, "unreadable: gone"), ("junk", b"junk", ""), ("good", face_png, "")]))
    assert [failure.split(":")[0] for failure in found.column(FAILURE).to_pylist()][::2] == ["unreadable", ""]
    assert len(json.loads(found.column(FACES)[2].as_py())) == 1
    made = anonymize(found)
    assert made.column(STATUS).to_pylist() == ["quarantined", "quarantined", "anonymized"]
    assert made.column("label").to_pylist() == [0, 1, 2] and made.schema.field("label").type == pa.int16()
    assert [made.column(name)[at].as_py() for name in (SEALED, OUTPUT, SIDECAR) for at in (0, 1)] == [None] * 6
    assert made.column(STORED_AT).to_pylist() == [None, None, FIDELITY]
    header = sealed_header(made.column(SEALED)[2].as_py())
    assert (header.run_id, header.dataset, header.record_id) == (RUN, DATASET, made.column(RECORD_ID)[2].as_py())
    assert SUBJECT not in made.column_names and ENCODED not in made.column_names


def test_a_known_key_is_in_no_block_and_in_no_log(
    detect: DetectFaces,
    anonymize: AnonymizeFaces,
    face_png: bytes,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("secrets.token_bytes", lambda count: CANARY[:count])  # where every image key comes from
    seen: list[PictureResult] = []
    original = anonymize.anonymizer

    def watched(tasks: Sequence[PictureTask]) -> list[PictureResult]:
        seen.extend(original(tasks))
        return seen

    monkeypatch.setattr(anonymize, "anonymizer", watched)
    with caplog.at_level(logging.DEBUG):
        made = anonymize(detect(source_table([{ROW: 0, ID: "a", SUBJECT: "ada", ENCODED: face_png, FAILURE: ""}])))
    assert seen[0].key is not None and seen[0].key.image_key == CANARY
    assert made.column(STATUS).to_pylist() == ["anonymized"] and made.column(SHOWS_PSEUDONYM).to_pylist() == [True]
    keys = [CANARY, PSEUDONYM, carrier_key(PSEUDONYM, 0)]
    assert [face.carrier_key for face in seen[0].key.faces] == keys[2:]
    assert not holds_key(serialized(made), keys)
    told = caplog.text + repr(seen) + repr(vars(anonymize)) + repr(vars(anonymize.pseudonyms))
    assert not holds_key(told.encode(), keys)
    assert holds_key(serialized(pa.table({"k": [CANARY]})), [CANARY])


def test_the_key_of_a_permanent_row_is_neither_sealed_nor_in_any_block_or_result(
    detect: DetectFaces,
    anonymize: AnonymizeFaces,
    face_png: bytes,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("secrets.token_bytes", lambda count: CANARY[:count])
    sealed: list[object] = []
    monkeypatch.setattr("jobs.run.anonymize_stage.Sealer.seal", lambda self, record: sealed.append(record) or b"sealed")
    seen: list[PictureResult] = []
    original = anonymize.anonymizer
    monkeypatch.setattr(anonymize, "anonymizer", lambda tasks: seen.extend(original(tasks)) or seen[-len(tasks) :])
    rows = [{ROW: at, ID: str(at), ENCODED: face_png, FAILURE: "", PERMANENT: at == 1} for at in range(2)]
    with caplog.at_level(logging.DEBUG):
        made = anonymize(detect(source_table(rows)))
        monkeypatch.setattr(anonymize, "sealing", None)
        discarded = anonymize(detect(source_table(rows)))
    assert made.column(STATUS).to_pylist() == discarded.column(STATUS).to_pylist() == ["anonymized"] * 2
    assert made.column(PERMANENT).to_pylist() == [False, True]
    assert discarded.column(PERMANENT).to_pylist() == [True, True]
    for name in (SEALED, SIDECAR, RECORD_ID, SOURCE_HMAC):
        assert [value is None for value in made.column(name).to_pylist()] == [False, True], name
        assert discarded.column(name).null_count == 2, name
    assert len(sealed) == 1
    assert [result.key is None for result in seen] == [False, True, True, True]
    assert not holds_key(serialized(made) + serialized(discarded) + caplog.text.encode(), [CANARY])


def test_a_defect_met_by_one_picture_costs_that_picture(
    detect: DetectFaces,
    anonymize: AnonymizeFaces,
    face_png: bytes,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    original = anonymize.anonymizer

    def defective(tasks: Sequence[PictureTask]) -> list[PictureResult]:
        if any(task.image_id == "poison" for task in tasks):
            raise ZeroDivisionError(f"the message holds {CANARY.hex()}")
        return original(tasks)

    monkeypatch.setattr(anonymize, "anonymizer", defective)
    found = detect(block([("a", face_png, ""), ("poison", face_png, ""), ("b", face_png, "")]))
    made: list[dict[str, Any]] = anonymize(found).to_pylist()
    assert [row[STATUS] for row in made] == ["anonymized", "quarantined", "anonymized"]
    assert made[1][REASON].startswith("internal_error: ZeroDivisionError at test_stages.py")
    assert "ZeroDivisionError" in caplog.text
    assert not holds_key(caplog.text.encode() + made[1][REASON].encode(), [CANARY])


def test_a_picture_whose_key_can_not_be_sealed_is_not_published(
    detect: DetectFaces, anonymize: AnonymizeFaces, face_png: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(anonymize, "sealing", SealingTarget(RUN, DATASET, b"no key"))
    made = anonymize(detect(block([("a", face_png, "")]))).to_pylist()
    assert made[0][STATUS] == "quarantined" and made[0][OUTPUT] is None and made[0][SIDECAR] is None


def test_memory_that_runs_out_while_a_key_is_sealed_is_no_verdict_on_a_picture(
    monitor: Monitor,
    detect: DetectFaces,
    anonymize: AnonymizeFaces,
    face_png: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def starve(*_: object) -> bytes:
        raise MemoryError

    failures: list[BaseException] = []  # of this test; the monitor keeps the first that it is told
    monkeypatch.setattr(monitor, "report_failure", failures.append)
    monkeypatch.setattr("jobs.run.anonymize_stage.Sealer.seal", starve)
    with pytest.raises(MachineError, match="MemoryError"):
        anonymize(detect(block([("a.png", face_png, "")])))


def test_memory_that_runs_out_while_faces_are_searched_is_no_verdict_on_a_picture(
    monitor: Monitor, detect: DetectFaces, face_png: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def starve(_: object) -> bytes:
        raise MemoryError

    failures: list[BaseException] = []
    monkeypatch.setattr(monitor, "report_failure", failures.append)
    monkeypatch.setattr(detect.detector, "detect", starve)
    with pytest.raises(MachineError, match="MemoryError"):
        detect(block([("a.png", face_png, "")]))


def test_a_resumed_run_refuses_another_prior(monitor: Monitor, ingest_key: bytes) -> None:
    target = SealingTarget(RUN, DATASET, ingest_key)
    with pytest.raises(PriorError, match="the run was made with"):
        AnonymizeFaces(
            "embedded", FaceModelChoice("embedded"), AnonymizeSettings(), target, Compute(), "0" * 64, monitor
        )
    failure = monitor.failure()
    assert isinstance(failure, PriorError)


def test_a_resumed_run_refuses_other_face_models_by_name_in_both_stages(monitor: Monitor, ingest_key: bytes) -> None:
    digests = FaceModelChoice("embedded").load(1).digests()
    assert {name.partition(":")[0] for name in digests} == {"detector", "parser", "recognizer"}
    for name, digest in digests.items():
        models = FaceModelChoice("embedded", expected={**digests, name: "0" * 64})
        told = f"{name} has digest {digest}, and the run that is resumed used {'0' * 64}"
        with pytest.raises(FaceModelError, match=re.escape(told)):
            models.load(1)
    others = FaceModelChoice("embedded", expected=dict.fromkeys(digests, "0" * 64))
    with pytest.raises(FaceModelError, match="detector:"):
        DetectFaces(others, 10_000_000, monitor)
    target = SealingTarget(RUN, DATASET, ingest_key)
    with pytest.raises(FaceModelError, match="used 000"):
        AnonymizeFaces("embedded", others, AnonymizeSettings(), target, Compute(), None, monitor)
    same = FaceModelChoice("embedded", expected=digests)
    assert same.load(1).digests() == digests and same.load_detector(1).digest in digests.values()
    renamed = FaceModelChoice("embedded", expected={"detector:retinaface": "0" * 64})
    with pytest.raises(FaceModelError, match="used none of that name"):
        renamed.load_detector(1)


def test_a_record_says_truly_what_the_denoiser_multiplied_in() -> None:
    for precision in ("float32", "bfloat16"):
        said = environment(load_prior("embedded", precision=precision))
        assert (said["device"], said["dtype"]) == ("cpu", precision)


def test_the_driver_does_not_load_what_only_actors_need() -> None:
    script = (
        "import sys, jobs.run.anonymize, jobs.output.sink\n"
        "assert not {'torch', 'diffusers', 'sqlalchemy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


def test_a_detecting_actor_does_not_load_torch() -> None:
    script = (
        "import sys; from jobs.run.detect_stage import DetectFaces, FaceModelChoice\n"
        "class Quiet:\n    def process_started(self, stage, process): pass\n"
        "DetectFaces(FaceModelChoice('embedded'), 1000, Quiet()); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
