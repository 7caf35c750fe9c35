"""Records of one person in a piece of a clip: asked for alone or with the others, and erased alone."""

from __future__ import annotations

import pytest

from keystore.embedded import Keystore
from keystore.errors import ErasureError, RecordNotFound
from keystore.vault.parts import part_id, whole_id
from keystore.verification.verify import verify_audit
from tests.keystore.postgres import ON_BOTH

PIECE = "a clip.mp4/000001280.mp4"
PARTS = [part_id(PIECE, track) for track in (0, 12, None)]
OTHERS = [
    "A clip.mp4/000001280.mp4#track-0",  # LIKE would take it for the same
    "a clip.mp4/000001280.mp4#track-x",
    "a clip.mp4/000001280.mp4#track-01",
    "a clip.mp4/000001280.mp4#track-0/photo.png",
    "a_clip.mp4/000001280.mp4#track-0",
]


@pytest.mark.parametrize("track", [0, 12, None])
def test_the_id_of_a_part_says_of_what_it_is_one(track: int | None) -> None:
    assert whole_id(part_id(PIECE, track)) == PIECE
    assert whole_id(part_id("two\nlines#track-1", track)) == "two\nlines#track-1"


@pytest.mark.parametrize(
    "name", [PIECE, "#track-1", "a#track-", "a#track-01", "a#track-1.png", "a#track-nobody", "a#track-٣"]
)
def test_other_ids_are_of_whole_images(name: str) -> None:
    assert whole_id(name) is None


@pytest.fixture
def pieces(keystore: Keystore, make) -> Keystore:
    make.deposit(keystore, [make.record(name) for name in (*PARTS, *OTHERS)], "part-7")
    assert keystore.ingest(make.RUN).ingested == len(PARTS) + len(OTHERS)
    return keystore


@ON_BOTH
def test_the_id_of_one_person_asks_for_that_record_alone(pieces: Keystore, make) -> None:
    approved = make.approved(pieces, PARTS[1])
    assert [record.image_id for record in make.take(pieces, approved)] == [PARTS[1]]


@ON_BOTH
def test_the_id_of_a_piece_asks_for_all_its_records(pieces: Keystore, make) -> None:
    approved = make.approved(pieces, PIECE, "a.png")
    assert {image.image_id for image in pieces.show(approved).images} == {"a.png", *PARTS}
    assert {record.image_id for record in make.take(pieces, approved)} == {"a.png", *PARTS}


@ON_BOTH
def test_a_piece_whose_person_has_two_records_must_be_asked_for_by_record(pieces: Keystore, make) -> None:
    make.deposit(pieces, [make.record(PARTS[0])], "part-8")
    pieces.ingest(make.RUN)
    with pytest.raises(RecordNotFound, match="4 key records"):
        make.request(pieces, PIECE)
    with pytest.raises(RecordNotFound, match="2 key records"):
        make.request(pieces, PARTS[0])
    assert len(make.request(pieces, PARTS[1]).images) == 1


def test_the_people_of_two_runs_are_not_taken_for_those_of_one(pieces: Keystore, make) -> None:
    make.deposit(pieces, [make.record(part_id(PIECE, 5), run_id="run-9")], "part-9", "run-9")
    pieces.ingest("run-9")
    with pytest.raises(RecordNotFound, match="4 key records"):
        make.request(pieces, PIECE)
    assert len(make.request(pieces, PIECE, run_id="run-9").images) == 1
    assert len(make.request(pieces, PIECE, run_id=make.RUN).images) == 3


@pytest.mark.parametrize("name", ["a clip.mp4", f"{PIECE}#track-", f"{PIECE}#track-1", f"{PIECE}#", "%", "a_clip.mp4"])
def test_who_is_not_in_a_piece_can_not_be_asked_for(pieces: Keystore, make, name: str) -> None:
    with pytest.raises(RecordNotFound, match="no key record"):
        make.request(pieces, name)


def test_an_image_with_a_record_of_its_own_stands_for_that_alone(pieces: Keystore, make) -> None:
    make.deposit(pieces, [make.record(PIECE)], "part-8")
    pieces.ingest(make.RUN)
    assert [image.image_id for image in make.request(pieces, PIECE).images] == [PIECE]


@ON_BOTH
def test_one_person_is_erased_from_a_piece_and_the_others_stay(pieces: Keystore, make) -> None:
    assert pieces.erase("photos", "Olga", image_id=PARTS[1]) == 1
    assert {image.image_id for image in make.request(pieces, PIECE).images} == {PARTS[0], PARTS[2]}
    report = verify_audit(pieces.path)
    assert report.ok, report.problems


@ON_BOTH
def test_a_piece_is_not_taken_for_erased_while_its_records_are_there(pieces: Keystore, make) -> None:
    with pytest.raises(ErasureError, match="of one person each") as refused:
        pieces.erase("photos", "Olga", image_id=PIECE)
    assert refused.value.code == "in-parts" and all(name in str(refused.value) for name in PARTS)
    assert len(make.request(pieces, PIECE).images) == 3


def test_a_piece_erased_before_its_records_come_takes_none_in(keystore: Keystore, make, clock) -> None:
    assert keystore.erase("photos", "Olga", image_id=PIECE) == 0
    records = [make.record(PARTS[0]), make.record(PARTS[1], subject="clip 1"), make.record("n.png")]
    make.deposit(keystore, records, "part-7")
    assert keystore.ingest(make.RUN).ingested == 2, "what is its subject's is erased with that"
    assert keystore.erased_among([one.record_id for one in records]) == {records[0].record_id}
