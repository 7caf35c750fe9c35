"""Pages that need nothing beside them: how their templates are rendered, and how pictures stand in them."""

import base64
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from keystore.decisions.plain_text import visible


def page_environment(package: str) -> Environment:
    """For the templates that lie in a package. A value that is missing is an error, and what a page shows is inert."""
    return Environment(
        loader=PackageLoader(package, "."),
        autoescape=select_autoescape(["html", "j2"]),
        undefined=StrictUndefined,
        finalize=_inert,
    )


def _inert(shown: Any) -> Any:
    """Names come from other people: what would turn a line round, or can not be seen, is shown as an escape."""
    return visible(shown) if type(shown) is str else shown


def data_uri(encoded: bytes, kind: str) -> str:
    """An encoded picture of a kind, such as "png", as the address of an image."""
    return f"data:image/{kind};base64,{base64.b64encode(encoded).decode()}"
