"""Records, sealed records and shards: exact round trips, no accidental exposure, and no altered byte that passes."""

from __future__ import annotations

import base64
import hashlib
import json
import pickle
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from keystore.crypto.canonical import canonical_json
from keystore.crypto.hybrid import HybridPrivateKey, encrypt, key_id
from keystore.errors import InvalidRecordError, ShardExistsError, StorageError, TamperedError
from keystore.intake import sealing
from keystore.intake.records import FaceRecord, KeyRecord
from keystore.intake.sealing import (
    BATCH_INFO,
    OLD_SEALED_INFO,
    OLD_SEALED_MAGIC,
    SEALED_MAGIC,
    Opener,
    Sealer,
    join_head,
    open_record,
    seal_record,
    sealed_header,
    split_head,
)
from keystore.intake.shards import parse_shard, read_shard, write_shard

KEY = HybridPrivateKey.generate()
SECRET = b"\x07secret-secret-secret-secret-\x00\xfe\x80"
assert len(SECRET) == 32


def on_a_carrier(make, secret: bytes = SECRET) -> dict[str, Any]:
    """What a record of version 3 says beside one of version 2."""
    face = FaceRecord(**{**vars(make.record().faces[0]), "carrier_key": secret})
    return {
        "inversion": "none",
        "grid": tuple(range(13)),
        "payload_share": 0.2,
        "faces": [face, make.record().faces[0]],
    }


def test_a_record_of_a_face_on_a_carrier_is_of_version_3_and_comes_back_exactly(make) -> None:
    record = make.record(**on_a_carrier(make))
    again = open_record(seal_record(record, KEY.public_bytes), KEY)
    assert (record.version, again) == (3, record)
    carried, plain = again.faces
    assert carried.carrier_key is not None and carried.carrier_key.get_secret_value() == SECRET
    assert plain.carrier_key is None
    document = json.loads(again.canonical_bytes())
    assert document["payload_share"] == 0.2
    assert [face["carrier_key"] for face in document["faces"]] == [base64.b64encode(SECRET).decode(), None]


@pytest.mark.parametrize(
    "changes",
    [
        {"payload_share": None},
        {"payload_share": 1.0},
        {"payload_share": 0.0},
        {"inversion": None},
        {"version": 2},
        {"faces": []},
        {"payload_share": None, "version": 3},
    ],
)
def test_a_carrier_and_its_share_are_said_together_from_version_3_on(make, changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        make.record(**{**on_a_carrier(make), **changes})


def test_a_carriers_key_of_another_length_is_refused_and_not_quoted(make) -> None:
    with pytest.raises(ValidationError, match="carrier_key") as caught:
        on_a_carrier(make, SECRET + b"x")
    assert "secret-secret" not in str(caught.value)


def test_a_record_comes_back_exactly(make) -> None:
    record = make.record(image_key=SECRET, subject="müller", details={"note": [1, 2.5, None]})
    again = open_record(seal_record(record, KEY.public_bytes), KEY)
    assert again == record
    assert again.image_key.get_secret_value() == SECRET
    assert again.faces[0].scale == 1.8000000000000003
    assert again.canonical_bytes() == record.canonical_bytes()


def test_the_image_key_does_not_show_by_accident(make) -> None:
    record = make.record(image_key=SECRET, **on_a_carrier(make))
    shown = [
        repr(record),
        repr(record.faces),
        str(record),
        record.model_dump_json(),
        repr(record.model_dump()),
        json.dumps(record.model_dump(mode="json")),
    ]
    for text in shown:
        assert "secret-secret" not in text
        assert SECRET.hex() not in text
        assert base64.b64encode(SECRET).decode() not in text
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
        {"inversion": "none", "grid": (1,) * 12},
        {"version": 2},
        {"created_at": "2026-11-22T00:00:00"},
        {"unknown": 1},
    ],
)
def test_a_malformed_record_is_refused(make, changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        make.record(**changes)
    assert make.record(steps=1, inversion="none", grid=(0, 949)).version == 2


def test_a_mask_is_bytes_no_text_and_not_shown(make) -> None:
    face = make.record().faces[0]
    with pytest.raises(ValidationError) as refused:
        FaceRecord(**vars(face) | {"mask": "AAECAwQF"})
    assert "AAECAwQF" not in str(refused.value) and "mask=" not in repr(face)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_a_record_with_what_is_no_number_is_refused(make, number: str) -> None:
    data = make.record(details={"note": 7}).canonical_bytes()
    with pytest.raises(InvalidRecordError):
        KeyRecord.from_canonical_bytes(data.replace(b'"note":7', f'"note":{number}'.encode()))
    words = make.record(details={"note": number}).canonical_bytes()
    assert KeyRecord.from_canonical_bytes(words).details == {"note": number}


@pytest.mark.parametrize("fact", [1e-5, 1e22, {"b": 1, "a": 2}, [{"b": 1, "a": 2}]])
def test_a_fact_that_is_no_text_is_written_canonically(make, fact: Any) -> None:
    assert canonical_json({"note": fact}) in make.record(details={"note": fact}).canonical_bytes()


def test_a_record_larger_than_any_is_refused_unread(make, monkeypatch: pytest.MonkeyPatch) -> None:
    data = make.record().canonical_bytes()
    monkeypatch.setattr("keystore.intake.records.MAX_CANONICAL_BYTES", len(data))
    KeyRecord.from_canonical_bytes(data)
    with pytest.raises(InvalidRecordError, match="more than"):
        KeyRecord.from_canonical_bytes(data + b" ")


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
    with pytest.raises(InvalidRecordError, match=f"{sealed_header(other).record_id}' was altered"):
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


def old_sealed(record: KeyRecord, about: dict[str, str] | None = None) -> bytes:
    """A record as it was sealed before batches."""
    names = {"record_id": record.record_id, "run_id": record.run_id, "dataset": record.dataset}
    header = json.dumps(names | {"key_id": key_id(KEY.public_bytes)} | (about or {})).encode()
    ciphertext = encrypt(record.canonical_bytes(), KEY.public_bytes, OLD_SEALED_INFO + header)
    return OLD_SEALED_MAGIC + len(header).to_bytes(4, "big") + header + ciphertext


def test_a_record_sealed_by_an_older_version_opens_and_every_altered_byte_is_noticed(make) -> None:
    sealed = old_sealed(make.record(subject="x"))
    assert open_record(sealed, KEY).subject == "x"
    assert sealed_header(sealed).dataset == "photos"
    for position in {*range(0, 300), *range(300, len(sealed), 97), len(sealed) - 1}:
        with pytest.raises(InvalidRecordError):
            open_record(sealed[:position] + bytes([sealed[position] ^ 1]) + sealed[position + 1 :], KEY)


@pytest.mark.parametrize("name", ["record_id", "run_id", "dataset"])
def test_a_header_that_names_another_record_than_it_covers_is_refused(make, name: str) -> None:
    with pytest.raises(InvalidRecordError, match="not the record its header names"):
        open_record(old_sealed(make.record(), {name: "another"}), KEY)


def test_a_batch_is_opened_once_and_every_record_by_itself(make, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[int] = []
    real = HybridPrivateKey.open
    monkeypatch.setattr(HybridPrivateKey, "open", lambda *given: (opened.append(1), real(*given))[1])
    sealer, opener = Sealer(KEY.public_bytes, "run-1", "photos"), Opener([KEY])
    records = [make.record(f"{number}.png") for number in range(5)]
    sealed = [sealer.seal(one) for one in records]
    sealed[2] = sealed[2][:-1] + bytes([sealed[2][-1] ^ 1])
    for number, one in enumerate(sealed):
        if number == 2:
            with pytest.raises(InvalidRecordError, match=r"was altered"):
                opener.open(*split_head(one))
        else:
            assert opener.open(*split_head(one)) == (records[number], records[number].canonical_bytes())
            assert opener.sha256_hex(*split_head(one)) == hashlib.sha256(one).hexdigest()
    assert len(opened) == 1


def test_a_record_can_not_be_put_under_another_head_or_id(make) -> None:
    one, other = (Sealer(KEY.public_bytes, "run-1", "photos") for _ in range(2))
    record, second = make.record("a"), make.record("b")
    (head, rest), (other_head, _) = split_head(one.seal(record)), split_head(other.seal(second))
    _, second_rest = split_head(one.seal(second))
    assert head is not None and other_head is not None
    for forged in (join_head(other_head, rest), join_head(head, rest[:36] + second_rest[36:])):
        with pytest.raises(InvalidRecordError, match="altered"):
            open_record(forged, KEY)


def test_a_batch_key_of_another_length_opens_nothing(make) -> None:
    head, rest = split_head(seal_record(make.record(), KEY.public_bytes))
    assert head is not None
    about = head[4 : 4 + int.from_bytes(head[:4], "big")]
    forged = head[: 4 + len(about)] + encrypt(b"short", KEY.public_bytes, BATCH_INFO + about)
    with pytest.raises(InvalidRecordError, match="altered"):
        open_record(join_head(forged, rest), KEY)


def test_a_head_that_ends_within_what_it_says_is_cut_short(make) -> None:
    head, rest = split_head(seal_record(make.record(), KEY.public_bytes))
    assert head is not None
    about = int.from_bytes(head[:4], "big")
    for length in (0, 3, 4, 3 + about):
        with pytest.raises(InvalidRecordError, match="cut short"):
            open_record(join_head(head[:length], rest), KEY)


def test_an_opener_keeps_no_more_batches_than_it_may(make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "MAX_BATCHES_IN_MEMORY", 2)
    opener = Opener([KEY])
    for _ in range(5):
        opener.open(*split_head(seal_record(make.record(), KEY.public_bytes)))
    assert len(opener._batches) <= 2


def test_a_sealer_seals_its_own_run_and_data_set_only_and_does_not_show(make) -> None:
    sealer = Sealer(KEY.public_bytes, "run-1", "photos")
    for changes in ({"run_id": "run-2"}, {"dataset": "other"}):
        with pytest.raises(InvalidRecordError, match="another run or data set"):
            sealer.seal(make.record(**changes))
    assert repr(sealer._batch_key)[2:-1] not in repr(sealer)
    with pytest.raises(TypeError, match="never pickled"):
        pickle.dumps(sealer)


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


def framed(version: int, *parts: bytes | int) -> bytes:
    """A shard with a right digest, whatever its parts say."""
    body = b"KASHARD%d" % version + b"".join(one if isinstance(one, bytes) else one.to_bytes(4, "big") for one in parts)
    return body + hashlib.sha256(body).digest()


NONE = 0xFFFFFFFF


@pytest.mark.parametrize(
    "data",
    [
        framed(2),
        framed(2, 0),
        framed(2, 0, 1),
        framed(2, 0, 1, NONE, 3, b"on"),
        framed(2, 0, 1, NONE, 3, b"one", b"x"),
        framed(2, 0, 2, NONE, 3, b"one"),
        framed(2, 0, 1, 0, 3, b"one"),
        framed(2, 1, 3, b"one", 1, 1, 0),
        framed(2, 1, 9, b"one", 0),
        framed(2, 0, 1, NONE, 0x80000000, b"one"),
        framed(1, 1, 3, b"on"),
        framed(1, 1, 3, b"one", b"x"),
        framed(1),
        framed(3, 0, 0),
    ],
)
def test_a_shard_that_does_not_add_up_is_damaged_though_its_digest_is_right(data: bytes) -> None:
    with pytest.raises(TamperedError, match="shard name"):
        parse_shard(data, "name")
    assert parse_shard(framed(2, 0, 1, NONE, 3, b"one"), "name") == [b"one"]


def test_a_shard_of_a_record_longer_than_any_is_damaged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keystore.intake.shards.MAX_SEALED_BYTES", 3)
    assert parse_shard(framed(2, 0, 1, NONE, 3, b"one"), "name") == [b"one"]
    with pytest.raises(TamperedError, match="shard name"):
        parse_shard(framed(2, 0, 1, NONE, 4, b"four"), "name")


@pytest.mark.parametrize("version", [1, 2])
def test_every_damage_of_a_shard_is_noticed_and_names_the_shard(tmp_path: Path, version: int) -> None:
    path = write_shard(tmp_path, "part-1", [b"one", b"two"])
    if version == 1:
        path.write_bytes(framed(1, 2, 3, b"one", 3, b"two"))
        assert read_shard(path) == [b"one", b"two"]
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


TEXTS = st.text('az é"\\\n\u2028😀', max_size=3)


@given(
    numbers=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=11, max_size=11),
    details=st.dictionaries(TEXTS, TEXTS | st.floats(-1, 1) | st.none(), max_size=4),
    offset=st.integers(-14, 14),
    version=st.sampled_from([1, 2, 3]),
    share=st.floats(0, 1, exclude_min=True, exclude_max=True),
)
def test_the_bytes_of_a_record_are_those_of_its_json_with_sorted_names(
    make, numbers: list[float], details: dict[str, Any], offset: int, version: int, share: float
) -> None:
    face = (
        make.record()
        .faces[0]
        .model_copy(update={"box": tuple(numbers[:4]), "affine": tuple(numbers[4:10]), "scale": numbers[10]})
    )
    made_at = datetime(2026, 11, 22, 1, 2, 3, 40, tzinfo=timezone(timedelta(hours=offset)))
    said: dict[str, Any] = {} if version == 1 else {"inversion": "none", "grid": tuple(range(13))}
    if version == 3:
        face = FaceRecord(**{**vars(face), "carrier_key": SECRET})
        said["payload_share"] = share
    record = make.record(faces=[face], details=details, created_at=made_at, environment={"z": "1", "a": "é"}, **said)
    since = {"inversion": 2, "grid": 2, "payload_share": 3}
    document = record.model_dump(mode="json", exclude={name for name, first in since.items() if first > version})
    document["faces"][0].pop("carrier_key")
    if version == 3:
        document["faces"][0]["carrier_key"] = base64.b64encode(SECRET).decode()
    document["image_key"] = base64.b64encode(record.image_key.get_secret_value()).decode()
    document["faces"][0]["mask"] = base64.b64encode(face.mask).decode()
    expected = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    assert record.canonical_bytes() == expected
    assert KeyRecord.from_canonical_bytes(expected).canonical_bytes() == expected
