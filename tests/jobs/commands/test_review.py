"""What an approver is shown of the published pictures: those that the key records are of, and no others."""

import base64
import io
import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from jobs.exit_codes import ExitCode
from jobs.output.manifest import COMPLETE
from jobs.storage.local import LocalStore
from keystore.embedded import Keystore
from tests.jobs.commands.conftest import Keyanon
from tests.jobs.output.test_verify import begun
from tests.jobs.publishing import Place
from tests.keystore.serving import Served, make_certificate

HOSTILE = "<script>alert(1)</script>\u202e.png"


def png(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (400, 200), colour).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def output(place: Place) -> Place:
    """A complete run of three pictures; the last is none that can be decoded."""
    place.out.mkdir()
    begun(place, LocalStore(place.out), COMPLETE, 3)
    with place.attempt() as attempt:
        pictures = {"a.png": png("red"), "b.png": png("blue"), "c.png": b"no picture"}
        attempt.run([[place.result(row, name, pictures[name]) for row, name in enumerate(pictures)]], 3)
    return place


@pytest.fixture
def request_id(output: Place) -> str:
    """Of all three."""
    wanted = [view.record_id for view in output.keystore.find_records(run_id=output.run_id)]
    made = output.keystore.request(
        "alice", wanted, f"C-17 {HOSTILE}", "identify a missing person", "court-order", timedelta(hours=2)
    )
    return made.request_id


def test_an_approver_sees_the_pictures_that_the_records_are_of(
    keyanon: Keyanon, output: Place, request_id: str, tmp_path: Path
) -> None:
    page = tmp_path / "review.html"
    asked = ("show", output.keystore.path, request_id, "--pictures", output.out)
    shown = keyanon(*asked, "--page", page, "--json")
    assert shown.code == ExitCode.OK and set(shown.json["pictures"].values()) == {"as its key record has it"}
    text = page.read_text()
    thumbnails = re.findall(r'src="data:image/png;base64,([^"]+)"', text)
    colours = set()
    for one in thumbnails:
        with Image.open(io.BytesIO(base64.b64decode(one))) as picture:
            assert picture.size == (320, 160)
            colours.add(picture.convert("RGB").getpixel((5, 5)))
    assert colours == {(255, 0, 0), (0, 0, 255)} and "it can not be shown" in text
    assert shown.json["digest"] in text, "what is signed"
    assert "<script" not in text and "\u202e" not in text and "&lt;script&gt;" in text
    assert page.stat().st_mode & 0o077 == 0
    assert keyanon(*asked, "--page", page).code == ExitCode.INPUT, "nothing is written over"


def test_a_picture_that_is_not_its_records_is_named_and_not_shown(
    keyanon: Keyanon, output: Place, request_id: str, tmp_path: Path
) -> None:
    (output.out / "images" / "a.png.png").write_bytes(png("green"))
    (output.out / "images" / "b.png.png").unlink()
    page = tmp_path / "review.html"
    shown = keyanon("show", output.keystore.path, request_id, "--pictures", output.out, "--page", page)
    assert shown.code == ExitCode.WRONG_KEY_OR_TAMPERED
    assert "its key record has another output_sha256" in shown.out and "data:image" not in page.read_text()
    other = tmp_path / "elsewhere"
    Place(other, output.keystore).out.mkdir(parents=True)
    begun(output, LocalStore(other / "out"), COMPLETE, 0)
    absent = keyanon("show", output.keystore.path, request_id, "--pictures", other / "out", "--json")
    assert absent.code == ExitCode.OK
    assert all(said.startswith("it is not in") for said in absent.json["pictures"].values())
    assert keyanon("show", output.keystore.path, request_id, "--page", page).code == ExitCode.USAGE


def test_a_picture_of_which_the_keystore_says_nothing_is_not_shown(
    keyanon: Keyanon, output: Place, request_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare = Keystore.compare_pictures

    def forgetful(keystore: Keystore, request_id: str, digests: Mapping[str, str]) -> dict[str, str]:
        return dict(list(compare(keystore, request_id, digests).items())[1:])

    monkeypatch.setattr(Keystore, "compare_pictures", forgetful)
    page = tmp_path / "review.html"
    shown = keyanon("show", output.keystore.path, request_id, "--pictures", output.out, "--page", page, "--json")
    assert sorted(shown.json["pictures"].values())[-1].startswith("the keystore did not compare it")
    assert page.read_text().count("data:image") + page.read_text().count("it can not be shown") == 2


def test_a_service_compares_for_those_who_may_see_the_request(
    keyanon: Keyanon, output: Place, request_id: str, tmp_path: Path
) -> None:
    served = Served(output.keystore.path, None)
    try:
        token = served.token_file(tmp_path / "bob", "approver", "bob", "d")
        asked = ("show", served.url, request_id, "--pictures", output.out, "--token-file", token)
        assert set(keyanon(*asked, "--json").json["pictures"].values()) == {"as its key record has it"}
        (output.out / "images" / "a.png.png").write_bytes(png("green"))
        assert keyanon(*asked).code == ExitCode.WRONG_KEY_OR_TAMPERED
        compared = served.client("approver", "bob", "d").compare_pictures(request_id, {"no record": "0" * 64})
        assert compared == {}, "only what the request names is spoken of"
    finally:
        served.stop()


def test_over_https_only_the_row_shards_of_the_requested_pictures_are_read(
    keyanon: Keyanon, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.out.mkdir()
    begun(place, LocalStore(place.out), COMPLETE, 3)
    with place.attempt() as attempt:
        attempt.run([[place.result(row, f"{row}.png", png("red"))] for row in range(3)], 3)
    (chosen,) = (row for row in place.rows() if row["image_id"] == "1.png")
    make_certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
    words = ("C-17", "identify a missing person", "court-order", timedelta(hours=2))
    asked_for = place.keystore.request("alice", [chosen["record_id"]], *words).request_id
    read, open_parquet = list[str](), LocalStore.open_parquet

    def counted(store: LocalStore, name: str) -> Any:
        read.append(name)
        return open_parquet(store, name)

    monkeypatch.setattr(LocalStore, "open_parquet", counted)
    served = Served(place.keystore.path, tmp_path)
    try:
        for role, name in (("approver", "bob"), ("requester", "alice")):
            token = served.token_file(tmp_path / name, role, name, "d")
            read.clear()
            shown = keyanon("show", served.url, asked_for, "--pictures", place.out, "--token-file", token, "--json")
            assert list(shown.json["pictures"].values()) == ["as its key record has it"]
            assert {one for one in read if one.startswith("rows/")} == {f"rows/{chosen['shard']}.parquet"}
    finally:
        served.stop()
