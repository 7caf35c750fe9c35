"""JSON files of a local directory."""

import json
from pathlib import Path
from typing import Any

from jobs.errors import PublishError
from keystore.storage import durable


def to_json(document: dict[str, Any]) -> bytes:
    """As every JSON file of a run is written. Raises ValueError for what is no JSON."""
    return (json.dumps(document, indent=2, sort_keys=True, allow_nan=False) + "\n").encode()


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Publish a JSON file durably, over an earlier one. Raises OSError."""
    durable.make_directory(path.parent, 0o755)
    durable.replace(path, to_json(document))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object that `write_json` wrote. Raises PublishError naming the file when it is none any more, OSError."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise PublishError(f"{path} is damaged ({error}); give another output") from error
    if not isinstance(document, dict):
        raise PublishError(f"{path} is damaged (no JSON object); give another output")
    return document
