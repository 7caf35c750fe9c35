"""The published pictures that a request is about, for who approves it: `keyanon show --pictures OUT --page FILE`.

What is shown is what the key records are of: the keystore compares the digest of each picture with the one in its record, and a
picture that is not its record's is named and never shown.
"""

import base64
import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from jobs.commands.asking import Asked
from jobs.errors import JobError

if TYPE_CHECKING:
    from jobs.output.pictures import PublishedPictures
    from jobs.output.reader import Row
    from jobs.storage.store import Store
    from keystore.decisions.views import RequestedImage, RequestView

SHOWN_SIDE: Final = 320  # px, at most, of a picture on the page
_SHOWN: Final = "as its key record has it"
_PAGE: Final = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>Request {{ view.request_id }}</title>
<style>
  body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2rem auto; padding: 0 1rem; }
  dt { font-weight: bold; } dd { margin: 0 0 .5rem; overflow-wrap: anywhere; white-space: pre-wrap; }
  .pictures { display: flex; flex-wrap: wrap; gap: 1rem; } figure { margin: 0; width: {{ side }}px; overflow-wrap: anywhere; }
  .problem { color: #a00; }
</style>
<h1>Request {{ view.request_id }}</h1>
<dl>
{% for name, said in facts.items() %}<dt>{{ name }}<dd><bdi>{{ ("-" if said is none else said) | visible }}</bdi>
{% endfor %}</dl>
<h2>Pictures as they were published ({{ pictures | length }})</h2>
<div class="pictures">
{% for one, thumbnail in pictures %}<figure>
{% if thumbnail %}<img alt="" src="data:image/png;base64,{{ thumbnail }}">
{% endif %}<figcaption><bdi>{{ one.image.image_id | visible }}</bdi> <bdi>({{ one.image.dataset | visible }})</bdi><br>
<span{% if one.problem %} class="problem"{% endif %}>{{ one.said | visible }}</span><br>
<code>{{ one.digest or "" }}</code></figcaption>
</figure>
{% endfor %}</div>
</html>
"""


@dataclass(frozen=True)
class Reviewed:
    """One picture of a request. digest: SHA-256 of the published file, None where there is none. problem: why it is not shown.
    differs: the keystore says that its record is of something else."""

    image: "RequestedImage"
    row: "Row | None"
    digest: str | None
    problem: str = ""
    differs: bool = False

    @property
    def said(self) -> str:
        """In words."""
        return self.problem or _SHOWN


def review(opened: Asked, view: "RequestView", store: "Store") -> list[Reviewed]:
    """Find the pictures of a request in an output, and have the keystore say whether they are its records'. Raises OutputError,
    KeystoreError."""
    from jobs.output.pictures import PublishedPictures
    from jobs.output.reader import find_rows

    ids = [image.record_id for image in view.images]
    rows = find_rows(store, ids, opened.request_shards(view.request_id))
    published = PublishedPictures(store)
    found = [_found(published, image, rows.get(image.record_id)) for image in view.images]
    digests = {one.image.record_id: one.digest for one in found if one.digest is not None}
    problems = opened.compare_pictures(view.request_id, digests) if digests else {}
    return [one if one.problem else _judged(one, problems.get(one.image.record_id)) for one in found]


def page_of(view: "RequestView", facts: Mapping[str, object], pictures: Sequence[Reviewed], store: "Store") -> str:
    """One page that loads nothing: the request, and its pictures made small. facts: of the request, in words."""
    from jinja2 import Environment, StrictUndefined

    from keystore.decisions.plain_text import visible

    environment = Environment(autoescape=True, undefined=StrictUndefined)
    environment.filters["visible"] = visible
    shown = list(_with_thumbnails(pictures, store))
    return environment.from_string(_PAGE).render(view=view, facts=facts, pictures=shown, side=SHOWN_SIDE)


def _judged(one: Reviewed, problem: str | None) -> Reviewed:
    """A picture as the keystore says; one that it says nothing of, as where the request was changed meanwhile, is not shown."""
    if problem == "":
        return one
    said = "the keystore did not compare it; show the request again" if problem is None else problem
    return replace(one, problem=said, differs=problem is not None)


def _found(pictures: "PublishedPictures", image: "RequestedImage", row: "Row | None") -> Reviewed:
    if row is None:
        return Reviewed(image, None, None, f"it is not in {pictures.store}")
    try:
        return Reviewed(image, row, hashlib.sha256(pictures.picture(row)).hexdigest())
    except JobError as error:
        return Reviewed(image, row, None, str(error))


def _with_thumbnails(pictures: Sequence[Reviewed], store: "Store") -> Iterator[tuple[Reviewed, str | None]]:
    from PIL import Image

    from jobs.output.pictures import PublishedPictures

    published = PublishedPictures(store)
    for one in pictures:
        if one.problem or one.row is None:
            yield one, None
            continue
        encoded = published.picture(one.row)
        if hashlib.sha256(encoded).hexdigest() != one.digest:
            yield Reviewed(one.image, one.row, one.digest, "it changed while it was looked at"), None
            continue
        try:
            with Image.open(io.BytesIO(encoded)) as picture:
                picture.draft("RGB", (2 * SHOWN_SIDE, 2 * SHOWN_SIDE))
                small = picture.convert("RGB")
                small.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            yield Reviewed(one.image, one.row, one.digest, f"it can not be shown ({type(error).__name__})"), None
            continue
        buffer = io.BytesIO()
        small.save(buffer, "PNG")
        yield one, base64.b64encode(buffer.getvalue()).decode()
