"""Records, sealed records and shards: exact round trips, no accidental exposure, and no altered byte that passes."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
from pydantic import ValidationError

from keystore.crypto.hybrid import HybridPrivateKey
from keystore.errors import InvalidRecordError, ShardExistsError, StorageError, TamperedError
from keystore.intake.records import KeyRecord
from keystore.intake.sealing import SEALED_MAGIC, open_record, read_shard, seal_record, sealed_header, write_shard

KEY = HybridPrivateKey.generate()
SECRET = b"\x07secret-secret-secret-secret-\x00\xfe\x80"
assert len(SECRET) == 32


def test_a_record_comes_back_exactly(make) -> None:
    record = make.record(image_key=SECRET, subject="müller", details={"note": [1, 2.5, None]})
    again = open_record(seal_record(record, KEY.public_bytes), KEY)
    assert again == record
    assert again.image_key.get_secret_value() == SECRET
    assert again.faces[0].scale == 1.8000000000000003
    assert again.canonical_bytes() == record.canonical_bytes()


def test_the_image_key_does_not_show_by_accident(make) -> None:
    record = make.record(image_key=SECRET)
    shown = [
        repr(record),
        str(record),
        record.model_dump_json(),
        repr(record.model_dump()),
        json.dumps(record.model_dump(mode="json")),
    ]
    for text in shown:
        assert "secret-secret" not in text
        assert SECRET.hex() not in text
    with pytest.raises(TypeError, match="never pickled"):
        pickle.dumps(record)


def test_a_refused_key_is_not_quoted_by_the_error(make) -> None:
    with pytest.raises(ValidationError) as caught:
        make.record(image_key=SECRET + b"x")
    assert "secret-secret" not in str(caught.value)
    document = json.loads(make.record(image_key=SECRET).canonical_bytes())
    document["steps"] = "c2VjcmV0LXNlY3JldA=="
    with pytest.raises(InvalidRecordError) as refused:
        KeyRecord.from_canonical_bytes(json.dumps(document).encode())
    assert "c2VjcmV0" not in str(refused.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"image_key": b"short"},
        {"image_key": "text of thirty-two characters..."},
        {"record_id": "not-a-uuid"},
        {"record_id": "0B6BDB52-5F3E-4C69-9A3F-6AFCE3A0A1A5"},
        {"run_id": "../escape"},
        {"image_id": ""},
        {"dataset": "x" * 2000},
        {"source_sha256": "ABC"},
        {"steps": 0},
        {"version": 2},
        {"created_at": "2026-11-22T00:00:00"},
        {"unknown": 1},
    ],
)
def test_a_malformed_record_is_refused(make, changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        make.record(**changes)


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"null", b"\xff", b'{"image_key": 3}', b"[" * 100_000])
def test_bytes_that_are_no_record_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidRecordError):
        KeyRecord.from_canonical_bytes(data)


def test_every_altered_byte_of_a_sealed_record_is_noticed(make) -> None:
    sealed = seal_record(make.record(), KEY.public_bytes)
    for position in {*range(0, 400), *range(400, len(sealed), 97), len(sealed) - 1}:
        altered = sealed[:position] + bytes([sealed[position] ^ 1]) + sealed[position + 1 :]
        with pytest.raises(InvalidRecordError):
            open_record(altered, KEY)
    for length in (0, 5, 12, 100, len(sealed) - 1):
        with pytest.raises(InvalidRecordError):
            open_record(sealed[:length], KEY)


def test_a_header_can_not_be_put_on_another_ciphertext(make) -> None:
    one, other = (seal_record(make.record(name), KEY.public_bytes) for name in ("a", "b"))
    head = len(SEALED_MAGIC) + 4 + int.from_bytes(one[8:12], "big")
    with pytest.raises(InvalidRecordError, match="altered"):
        open_record(one[:head] + other[head:], KEY)


def test_a_record_sealed_to_another_keystore_says_so(make) -> None:
    record = make.record()
    with pytest.raises(InvalidRecordError, match="another ingest key"):
        open_record(seal_record(record, HybridPrivateKey.generate().public_bytes), KEY)


def test_the_header_names_the_record_and_holds_no_secret(make) -> None:
    record = make.record(subject="a person")
    sealed = seal_record(record, KEY.public_bytes)
    header = sealed_header(sealed)
    assert (header.record_id, header.run_id, header.dataset) == (record.record_id, record.run_id, record.dataset)
    assert b"a person" not in sealed


@pytest.mark.parametrize("key", [b"", b"x" * 1215, b"\xff" * 1216])
def test_a_malformed_public_key_is_refused(make, key: bytes) -> None:
    with pytest.raises(InvalidRecordError, match="X-Wing"):
        seal_record(make.record(), key)


def test_the_private_key_comes_back_from_its_parts_and_does_not_show() -> None:
    again = HybridPrivateKey.from_secret_bytes(KEY.secret_bytes())
    assert again.public_bytes == KEY.public_bytes
    assert KEY.secret_bytes().hex()[:16] not in repr(KEY)
    with pytest.raises(InvalidRecordError):
        HybridPrivateKey.from_secret_bytes(b"x" * 95)


def test_a_shard_comes_back_in_order(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "inbox" / "run", "part-1", [b"one", b"", b"three"])
    assert path.name == "part-1.keys"
    assert read_shard(path) == [b"one", b"", b"three"]
    assert [one.name for one in path.parent.iterdir()] == ["part-1.keys"], "no temporary file stays behind"


def test_a_shard_is_never_overwritten(tmp_path: Path) -> None:
    path = write_shard(tmp_path, "part-1", [b"first"])
    with pytest.raises(ShardExistsError, match="not overwritten"):
        write_shard(tmp_path, "part-1", [b"second"])
    assert read_shard(path) == [b"first"]
    assert [one.name for one in tmp_path.iterdir()] == ["part-1.keys"]


def test_every_damage_of_a_shard_is_noticed_and_names_the_shard(tmp_path: Path) -> None:
    path = write_shard(tmp_path, "part-1", [b"one", b"two"])
    whole = path.read_bytes()
    damages = [whole[:length] for length in range(len(whole))] + [whole + b"x", b"junk" * 30]
    damages += [whole[:place] + bytes([whole[place] ^ 128]) + whole[place + 1 :] for place in range(len(whole))]
    for damaged in damages:
        path.write_bytes(damaged)
        with pytest.raises(TamperedError, match=r"part-1\.keys"):
            read_shard(path)


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "part-1.keys", "x" * 300, "a\nb"])
def test_a_shard_name_that_could_lead_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidRecordError, match="shard name"):
        write_shard(tmp_path, name, [])


def test_a_shard_that_can_not_be_written_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="can not be written"):
        write_shard(tmp_path / "file" / "inbox", "part-1", [])
