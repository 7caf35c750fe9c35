"""Rows are found by their key records: in the shard that the keystore names, else wherever they are."""

from jobs.output.reader import find_rows
from jobs.storage.local import LocalStore
from tests.jobs.publishing import Place, block, quarantined


def test_rows_are_found_with_a_hint_without_one_and_with_a_wrong_one(place: Place) -> None:
    with place.attempt() as attempt:
        attempt.run([[place.result(0, "a.jpg"), quarantined(1, "b.jpg")], [place.result(2, "c.jpg")]], 3)
    store = LocalStore(place.out)
    ids = {row["image_id"]: row["record_id"] for row in place.rows() if row["record_id"]}
    shards = place.keystore.shards_of([ids["c.jpg"]])
    (found,) = find_rows(store, [ids["c.jpg"]], shards).values()
    assert (found.image_id, found.shard) == ("c.jpg", f"rows/{min(shards)}.parquet")
    for hint in (set(), shards, {"000000009-0123456789abcdef-0123456789ab"}):
        assert {row.image_id for row in find_rows(store, ids.values(), hint).values()} == {"a.jpg", "c.jpg"}
    assert find_rows(store, ["no such record"], shards) == {}


def test_a_row_of_a_later_retry_is_found_and_the_one_it_replaced_is_not(place: Place) -> None:
    with place.attempt() as attempt:
        publisher = attempt.publisher()
        publisher.open()
        attempt.sink().stage(block([place.result(0, "a.jpg")]))
        publisher.publish_complete()
    (first,) = place.rows()
    replaced = place.keystore.shards_of([first["record_id"]]) or {first["shard"]}
    with place.attempt(retry=1) as attempt:
        publisher = attempt.publisher(done=())
        publisher.open()
        attempt.sink().stage(block([quarantined(0, "a.jpg")]))
        publisher.publish_complete()
    assert find_rows(LocalStore(place.out), [first["record_id"]], replaced) == {}
