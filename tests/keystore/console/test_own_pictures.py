"""An approver's own copies of the published pictures, in a real browser: shown by their digests, and sent nowhere."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from keystore.served import ServedKeystore
from tests.keystore.console.driving import Tab


def png(color: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (60, 40), color).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def request_id(served, make) -> str:
    """A request for the keys of two published pictures, one file that is no picture, and one record without a file."""
    published = {"red.png": png("red"), "blue.png": png("blue"), "broken.png": b"no picture"}
    with ServedKeystore.open(served.path) as keystore:
        records = [
            make.record(name, run_id="run-p", output_sha256=hashlib.sha256(data).hexdigest())
            for name, data in published.items()
        ]
        make.deposit(keystore, [*records, make.record("none.png", run_id="run-p")], "part-0", "run-p")
        assert keystore.ingest("run-p").ingested == 4
        return str(make.request(keystore, *published, "none.png").request_id)


@pytest.fixture
def tab(browser: Any, served) -> Iterator[Tab]:
    made = Tab(browser, served.origin)
    yield made
    made.close()


def test_files_that_are_their_records_are_shown_and_no_others_and_nothing_is_sent(
    tab: Tab, served, request_id: str, tmp_path: Path
) -> None:
    (tmp_path / "named otherwise.bin").write_bytes(png("red"))
    (tmp_path / "blue.png").write_bytes(png("green"))  # another picture under the name of one
    (tmp_path / "broken.png").write_bytes(b"no picture")
    tab.sign_in(served.token("approver", "bob", "photos"))
    tab.open(f"/requests/{request_id}/approval")
    tab.push("Look at its published pictures")
    tab.check()
    sent: list[str] = []
    tab.page.on("request", lambda one: sent.append(one.url))
    tab.reach("Pictures")
    tab.page.set_input_files("#files", [str(one) for one in tmp_path.iterdir()])
    tab.page.wait_for_selector("#pictures-said:has-text('none of them')")
    tab.page.wait_for_selector("li:has-text('broken.png'):has-text('can not show it')")
    assert tab.page.locator(".pictures img").count() == 1
    told = {one.partition(" ")[0]: one for one in tab.page.locator(".pictures li").all_inner_texts()}
    assert "as its key record has it" in told["red.png"] and "not chosen yet" in told["blue.png"]
    assert "can not show it" in told["broken.png"] and "no published file" in told["none.png"]
    assert tab.page.evaluate("document.querySelector('.pictures img').naturalWidth") == 60
    assert "1 are none of them" in tab.text()
    assert [one for one in sent if not one.startswith("blob:")] == []
    tab.page.set_input_files("#files", [{"name": "x", "mimeType": "image/svg+xml", "buffer": png("blue")}])
    tab.page.wait_for_selector("li:has-text('blue.png') img")
    assert tab.complaints == []


def test_the_page_and_the_digests_are_for_approvers_of_the_data_set(served, request_id: str) -> None:
    page = served.person("approver", "bob", "photos").get(f"/requests/{request_id}/pictures")
    assert page.status_code == 200 and "img-src blob:" in page.headers["content-security-policy"]
    assert hashlib.sha256(png("red")).hexdigest() in page.text
    other = served.person("approver", "bob", "photos").get(f"/requests/{request_id}")
    assert "img-src" not in other.headers["content-security-policy"]
    for role, dataset in (("approver", "elsewhere"), ("requester", "photos"), ("auditor", None)):
        assert served.person(role, "alice", dataset).get(f"/requests/{request_id}/pictures").status_code == 404
    digests = served.call(
        "GET", f"/v1/requests/{request_id}/pictures", served.token("approver", "bob", "photos")
    ).json()
    assert list(digests["digests"].values()).count(None) == 1 and len(digests["digests"]) == 4
