"""A browser at the console: moved by the keyboard alone, and asked what it complained of."""

from __future__ import annotations

import functools
import http.server
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# A page with status 409 is an error to Chromium; and it advises RS256 for devices that know nothing newer.
EXPECTED = ("Failed to load resource", "publicKey.pubKeyCredParams is missing")
MAX_TABS = 80  # no page here has so many places to stop at
_FOCUSED = """() => {
  const one = document.activeElement;
  const label = one.labels && one.labels.length ? one.labels[0] : one;
  return (one.getAttribute('aria-label') || label.textContent || '').trim().replace(/\\s+/g, ' ');
}"""
_UNLABELLED = """() => [...document.querySelectorAll('input:not([type=hidden]), textarea, select')]
  .filter(one => !one.labels.length).map(one => one.name)"""
_FAINT = """() => {
  const parse = text => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = rgb => {
    const [r, g, b] = rgb.slice(0, 3).map(c => c / 255).map(c => c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const behind = one => {
    for (; one; one = one.parentElement) {
      const rgb = parse(getComputedStyle(one).backgroundColor);
      if (rgb.length === 3 || rgb[3] > 0) return rgb;
    }
    return [255, 255, 255];
  };
  return [...document.querySelectorAll('body *')]
    .filter(one => [...one.childNodes].some(node => node.nodeType === 3 && node.textContent.trim()))
    .filter(one => {
      const [a, b] = [light(parse(getComputedStyle(one).color)), light(behind(one))].sort((x, y) => y - x);
      return (a + .05) / (b + .05) < 4.5;
    }).map(one => one.outerHTML.slice(0, 80));
}"""


class Tab:
    """One page of a browser context of its own."""

    def __init__(self, browser: Any, origin: str) -> None:
        self.context = browser.new_context(viewport={"width": 1000, "height": 500})
        self.context.set_default_timeout(60_000)
        self.page = self.context.new_page()
        self.origin = origin
        self.complaints: list[str] = []
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _hear(self, said: Any) -> None:
        if said.type in ("error", "warning") and not said.text.startswith(EXPECTED):
            self.complaints.append(said.text)

    def open(self, path: str) -> None:
        self.page.goto(self.origin + "/console" + path)

    def sign_in(self, token: str) -> None:
        self.open("/sign-in")
        self.write("Your token", token)
        self.press("Enter")
        self.page.wait_for_selector("text=Sign out")

    def press(self, key: str) -> None:
        self.page.keyboard.press(key)

    def reach(self, name: str) -> None:
        """Press Tab until what is called `name` has the focus."""
        for _ in range(MAX_TABS):
            if self.page.evaluate(_FOCUSED).startswith(name):
                return
            self.press("Tab")
        raise AssertionError(f"{name} can not be reached by Tab on {self.page.url}")

    def write(self, name: str, text: str) -> None:
        self.reach(name)
        self.page.keyboard.type(text)

    def push(self, name: str) -> None:
        """Reach a link or a button and use it, and wait for where it leads."""
        self.reach(name)
        with self.page.expect_navigation():
            self.press("Enter")

    def text(self) -> str:
        return str(self.page.inner_text("main"))

    def check(self) -> None:
        """What every page owes to those who can not see it well."""
        assert self.page.locator("h1").count() == 1 and self.page.get_attribute("html", "lang") == "en"
        assert self.page.evaluate(_UNLABELLED) == []
        assert self.page.evaluate(_FAINT) == []

    def close(self) -> None:
        self.context.close()


@contextmanager
def elsewhere(folder: Path, tls: Path) -> Iterator[str]:
    """Another server on the same host, with TLS: same site, other origin; the origin."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls / "cert.pem", tls / "key.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"https://localhost:{server.server_port}"
    server.shutdown()
    server.server_close()
