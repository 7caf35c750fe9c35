"""The pictures of docs/console.md, taken of the real console over a made-up data set.

python -m tests.keystore.console.pictures docs/images
"""

from __future__ import annotations

import io
import sys
import tempfile
from datetime import timedelta
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from keystore.served import ServedKeystore
from tests.keystore.conftest import Helpers
from tests.keystore.console.conftest import ServedConsole, launched
from tests.keystore.console.driving import Tab
from tests.keystore.serving import make_certificate

COLOURS = 32
IMAGES = [f"street-{number:04}.png" for number in range(1, 7)]
REQUESTS = (
    ("C-17", "identify the driver of the grey van", "court-order: 12/26", IMAGES[:3]),
    ("C-21", "return a lost child's photographs to the parents", "consent: both parents, 3 November", IMAGES[3:4]),
    (
        "C-24",
        "identify the witnesses of the accident in Mill Lane",
        "court-order: Code of Criminal Procedure 98a",
        IMAGES[2:],
    ),
)


def made_up(path: Path) -> None:
    """A keystore with records of nobody and three requests, one of them approved."""
    with ServedKeystore.create(path) as keystore:
        Helpers.deposit(keystore, [Helpers.record(image, dataset="street") for image in IMAGES])
        keystore.ingest(Helpers.RUN)
        for case, purpose, basis, images in REQUESTS:
            filed = keystore.request("alice", images, case, purpose, basis, timedelta(days=2))
            if case != "C-24":
                Helpers.approve(keystore, filed.request_id, "bob")
            if case == "C-21":
                Helpers.approve(keystore, filed.request_id, "carol")


def taken(tab: Tab, path: Path) -> None:
    """A picture of a whole page, in few colours: some tens of kilobytes."""
    picture = Image.open(io.BytesIO(tab.page.screenshot(full_page=True))).convert("RGB")
    picture.quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)


def main(out: Path) -> None:
    """Take the pictures."""
    with tempfile.TemporaryDirectory() as work:
        made_up(Path(work) / "ks")
        make_certificate(Path(work))
        served = ServedConsole(Path(work) / "ks", Path(work))
        try:
            with sync_playwright() as playwright:
                browser = launched(playwright, Path(work))
                tab = Tab(browser, served.origin)
                tab.sign_in(served.token("approver", "carol", "street"))
                taken(tab, out / "console-requests.png")
                tab.push("C-17")
                taken(tab, out / "console-request.png")
                tab.close()
                tab = Tab(browser, served.origin)
                tab.sign_in(served.token("auditor", "eve"))
                tab.push("Verify the log now")
                taken(tab, out / "console-log.png")
                browser.close()
        finally:
            served.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
