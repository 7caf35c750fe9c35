"""Pages as text: templates in which everything is escaped, and the headers that leave a browser little to do wrong."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.responses import HTMLResponse, Response

from keystore.decisions.changes import described, title
from keystore.decisions.plain_text import visible

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), publickey-credentials-get=(self)",
    "Referrer-Policy": "same-origin",  # with less, a browser would not say the origin of a form
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""Of every answer of the console that has none of its own. Nothing inline, nothing from elsewhere, in nobody's frame, kept in no
cache."""

OWN_PICTURES = {"Content-Security-Policy": HEADERS["Content-Security-Policy"] + "; img-src blob:"}
"""Of the page that shows pictures which its script made of files on the reader's machine."""


def moment(when: datetime) -> str:
    """Return a time as people read it."""
    return f"{when.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def span(seconds: int) -> str:
    """Return a time span in its largest units: `1 d 12 h`."""
    parts = []
    for name, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, seconds = divmod(seconds, size)
        if count:
            parts.append(f"{count} {name}")
    return " ".join(parts[:2]) or "0 s"


def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("keystore.console"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # Whatever is put into a page, by whomever it was written: first made visible, then escaped.
        finalize=lambda value: visible(value) if type(value) is str else value,
    )
    made.filters |= {"moment": moment, "span": span}
    made.globals |= {"described": described, "title": title}
    return made


_ENVIRONMENT = _environment()


def page(template: str, status: int = 200, **values: Any) -> HTMLResponse:
    """Return a page. values: what its template asks for."""
    return HTMLResponse(_ENVIRONMENT.get_template(template).render(**values), status)


def secured(response: Response) -> Response:
    """Return an answer with the headers of the console."""
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    return response
