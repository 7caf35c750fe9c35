"""The manifest of a run: what was asked, with which models and libraries, and whether it is complete. It holds no
secret."""

import json
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Self

from jobs.config import NEUTRAL_SETTINGS, AnonymizeConfig
from jobs.errors import PublishError
from jobs.output.layout import LEASE_FILE, MANIFEST_FILE, RUN_DIRECTORY
from jobs.sources.source import Source
from keystore.service import Keystore
from keystore.storage import durable

FORMAT_VERSION: Final = 2
RUNNING: Final = "running"
COMPLETE: Final = "complete"


@dataclass
class Manifest:
    """`OUT/_keyanon/manifest.json`. identity: digests of the settings and of the input's listing; a resume needs the
    same. keys: "store", or "discard" when no key was kept; keystore_id is None then. retries: those of `keyanon quarantine
    retry`, in order; `finished_at` of the last is None while it is not through."""

    run_id: str
    keystore_id: str | None
    dataset: str
    config_digest: str
    listing_digest: str
    input_kind: str
    input_rows: int
    config: dict[str, Any]
    started_at: str
    state: str = RUNNING
    finished_at: str | None = None
    attempts: int = 1
    image_column: str | None = None
    renamed_columns: dict[str, str] = field(default_factory=dict)
    facts: list[dict[str, Any]] = field(default_factory=list)
    retries: list[dict[str, Any]] = field(default_factory=list)
    version: int = FORMAT_VERSION
    keys: str = "store"

    @classmethod
    def begin(cls, run_id: str, keystore_id: str | None, config: AnonymizeConfig, source: Source) -> Self:
        """The manifest of a run that starts now."""
        return cls(
            run_id=run_id,
            keystore_id=keystore_id,
            dataset=config.dataset,
            config_digest=config.digest(),
            listing_digest=source.digest,
            input_kind=source.kind,
            input_rows=source.total,
            config=config.to_json(),
            started_at=now(),
            image_column=source.image_column,
            renamed_columns=dict(source.renamed),
            keys=config.keys,
        )

    @property
    def prior_digest(self) -> str | None:
        """Digest of the prior that the run's workers loaded; None before any did."""
        return str(self.facts[0]["prior"]["digest"]) if self.facts else None

    def write(self, root: Path) -> None:
        """Publish over an earlier state. Raises OSError."""
        write_json(root / RUN_DIRECTORY / MANIFEST_FILE, asdict(self))

    def check_same_run(self, root: Path, config: AnonymizeConfig, source: Source) -> None:
        """Raise PublishError unless the run that wrote `root` had these settings and this input."""
        if self.config_digest != config.digest():
            wanted = config.to_json()
            changed = sorted(name for name in wanted if self.config.get(name) != wanted[name])
            raise PublishError(
                f"output {root} belongs to a run with other settings ({', '.join(changed)}); "
                "give an empty output, or the same settings"
            )
        self.check_same_input(root, source)

    def check_same_input(self, root: Path, source: Source) -> None:
        """Raise PublishError unless the run that wrote `root` had this input."""
        if self.listing_digest != source.digest:
            raise PublishError(
                f"output {root} belongs to a run over other input: files were added, taken or changed; "
                "give an empty output"
            )

    def check_keystore(self, root: Path, keystore: Keystore | None) -> None:
        """Raise PublishError unless the keys of the run that wrote `root` are in that keystore, or discarded as now."""
        if self.keystore_id != (None if keystore is None else keystore.id):
            now_in = "discarded" if keystore is None else f"in {keystore.path}, which is {keystore.id}"
            raise PublishError(
                f"output {root} belongs to a run whose keys are in keystore {self.keystore_id}, and now they would be "
                f"{now_in}; give that keystore, or an empty output"
            )

    @property
    def unfinished_retry(self) -> dict[str, Any] | None:
        """The retry that was begun last, if it is not through."""
        return self.retries[-1] if self.retries and self.retries[-1]["finished_at"] is None else None

    def begin_retry(self, reason: str | None, settings: dict[str, Any]) -> int:
        """Number of the retry that starts now, or goes on where the same was stopped. settings: what it changes."""
        retry = self.unfinished_retry
        if retry is None or retry["reason"] != reason:
            retry = {"number": len(self.retries) + 1, "reason": reason, "started_at": now(), "finished_at": None}
            self.retries.append(retry)
        retry["settings"] = settings
        self.state, self.finished_at = RUNNING, None
        self.attempts += 1
        return int(retry["number"])

    def finish(self, config: AnonymizeConfig) -> None:
        """Every row is there and every key taken in. config: of this attempt, whose places and layout are kept."""
        self.state, self.finished_at = COMPLETE, now()
        for retry in self.retries:
            retry["finished_at"] = retry["finished_at"] or self.finished_at
        self.config.update({name: value for name, value in config.to_json().items() if name in NEUTRAL_SETTINGS})


def read_existing(root: Path) -> Manifest | None:
    """The manifest of the run that wrote `root`; None when nothing did.

    Raises:
        PublishError: `root` is no directory, holds something that is no run of keyanon, or its manifest is damaged.
    """
    try:
        present = {entry.name for entry in root.iterdir()} if root.exists() else set()
        path = root / RUN_DIRECTORY / MANIFEST_FILE
        if path.is_file():
            return _manifest(path, json.loads(path.read_text(encoding="utf-8")))
        ours = {entry.name for entry in (root / RUN_DIRECTORY).iterdir()} if RUN_DIRECTORY in present else set()
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise PublishError(f"output {root} can not be used ({error}); give an empty directory") from error
    # A run that was killed before its manifest was written leaves its lease, and nothing that counts.
    if present - {RUN_DIRECTORY} or any(name != LEASE_FILE and not name.endswith(".tmp") for name in ours):
        raise PublishError(f"output {root} is not empty and no run of keyanon wrote it; give an empty directory")
    return None


def _manifest(path: Path, document: dict[str, Any]) -> Manifest:
    if document.get("version") != FORMAT_VERSION:
        raise PublishError(
            f"{path} is of version {document.get('version')}, and this keyanon writes {FORMAT_VERSION}; give an empty output"
        )
    return Manifest(**document)


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Publish a JSON file durably, over an earlier one. Raises OSError."""
    durable.make_directory(path.parent, 0o755)
    durable.replace(path, (json.dumps(document, indent=2, sort_keys=True, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object that `write_json` wrote. Raises PublishError naming the file when it is none any more, OSError."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise PublishError(f"{path} is damaged ({error}); give another output") from error
    if not isinstance(document, dict):
        raise PublishError(f"{path} is damaged (no JSON object); give another output")
    return document


def now() -> str:
    """The time as ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")
