"""The manifest of a run: what was asked, with which models and libraries, and whether it is complete. It holds no
secret."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final, Self

from jobs.config import NEUTRAL_SETTINGS, AnonymizeConfig
from jobs.errors import LeaseError, PublishError
from jobs.output.keys import KeyHolder
from jobs.output.layout import LEASE, MANIFEST, RUN_DIRECTORY, SEGMENTS
from jobs.sources.source import Source
from jobs.storage.json_files import to_json
from jobs.storage.store import ChangedError, Store
from keyanon_core.procedure import EMBEDDED

FORMAT_VERSION: Final = 2
RUNNING: Final = "running"
WAITING: Final = "waiting for keys"  # every row is there; keys wait in the inbox
COMPLETE: Final = "complete"


@dataclass
class Manifest:
    """`OUT/_keyanon/manifest.json`. config_digest, given_digest: of the settings, and of what the user says of faces; a resume
    needs the same. listing_digest: of the input as it was listed last, with input_rows in it; gone_rows: of the output, that were
    not in it any more. keys: "store", or "discard" when no key was kept; keystore_id is None then. versions: of keyanon, those
    that worked on it in turn. retries: those of `keyanon quarantine retry`, in order; `finished_at` of the last is None while it
    is not through."""

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
    given_digest: str | None = None  # None in a run of an earlier version
    gone_rows: int = 0
    versions: list[str] = field(default_factory=list)
    seen: str | None = field(
        default=None, compare=False, repr=False
    )  # the stored one that this was read from, for `replace`

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
            given_digest=source.given_digest,
            versions=[code_version()],
        )

    @property
    def prior_digest(self) -> str | None:
        """Digest of the prior that the run's workers loaded; None before any did."""
        return str(self.facts[0]["prior"]["digest"]) if self.facts else None

    @property
    def face_models(self) -> Mapping[str, str]:
        """Digests of the face models that the run's workers loaded, by role and name; none before any did."""
        return dict(self.facts[0]["face_models"]) if self.facts else {}

    @property
    def code_version(self) -> str:
        """Of keyanon, that which worked on the run last; "" where nobody wrote it down."""
        if self.versions:
            return self.versions[-1]
        return str(self.facts[-1]["environment"].get("keyanon", "")) if self.facts else ""

    def write(self, store: Store) -> None:
        """Publish over the state that was read or written last. Raises LeaseError: another attempt wrote it; OSError,
        MachineError."""
        document = {name: value for name, value in asdict(self).items() if name != "seen"}
        try:
            self.seen = store.replace(MANIFEST, to_json(document), self.seen)
        except ChangedError as error:
            raise LeaseError(f"another attempt goes on with {store}; this one writes nothing more") from error

    def check_same_run(self, root: Store, config: AnonymizeConfig, source: Source) -> None:
        """Raise PublishError unless the run that wrote `root` had this version of keyanon, these settings and this input."""
        self.check_version(root, config.accept_version)
        if self.config_digest != config.digest() and (changed := self._changed(config)):
            raise PublishError(
                f"output {root} belongs to a run with other settings ({'; '.join(changed)}); "
                "give an empty output, or the same settings"
            )
        self.check_same_input(root, source)

    def check_version(self, root: Store, accepted: str | None) -> None:
        """Raise PublishError unless this version of keyanon worked on the run last, or is the accepted one."""
        now = code_version()
        if self.code_version not in ("", now) and accepted != now:
            raise PublishError(
                f"output {root} belongs to a run of another version of keyanon ({self.code_version}, and this is {now}), whose "
                f"pictures may come out otherwise; go on with {self.code_version}, accept this one by --accept-version {now}, "
                "or give an empty output"
            )

    def _changed(self, config: AnonymizeConfig) -> list[str]:
        """The settings that change results and are not those of the run, with both values. Those that only one of two versions of
        keyanon knows are part of what is accepted with a version."""
        now, then = (
            {n: v for n, v in one.items() if n not in NEUTRAL_SETTINGS} for one in (config.to_json(), self.config)
        )
        upgraded = self.code_version not in ("", code_version())
        names = now.keys() & then.keys() if upgraded else now.keys() | then.keys()
        told = {n: [json.dumps(one[n]) if n in one else "not known" for one in (then, now)] for n in sorted(names)}
        changed = [f"{n}: {before}, and now {after}" for n, (before, after) in told.items() if before != after]
        return changed or ([] if upgraded else ["config_digest"])

    def check_same_input(self, root: Store, source: Source) -> None:
        """Raise PublishError unless the run that wrote `root` had input of this kind, with the same said of its faces. Its rows
        are compared by `jobs.output.numbering`."""
        if self.input_kind != source.kind:
            raise PublishError(
                f"output {root} belongs to a run over {self.input_kind}, not {source.kind}; give an empty output"
            )
        said = None if self.given_digest is None else self.given_digest == source.given_digest
        if said is False:
            raise PublishError(
                f"output {root} belongs to a run with other files of boxes, keep or subjects; give those, or an empty output"
            )
        if said is None:
            self.check_same_listing(root, source)

    def check_same_listing(self, root: Store, source: Source) -> None:
        """Raise PublishError unless the run that wrote `root` had this very input."""
        if self.listing_digest != source.digest:
            raise PublishError(
                f"output {root} belongs to a run over other input: files were added, taken or changed; "
                "give an empty output"
            )

    @property
    def total_rows(self) -> int:
        """Rows of the complete output."""
        return self.input_rows + self.gone_rows

    def goes_on_over(self, source: Source, gone: int) -> None:
        """The input as it is now, whose rows that stand were found to be the same, but for those that are gone."""
        self.listing_digest, self.input_rows, self.given_digest = source.digest, source.total, source.given_digest
        self.gone_rows = gone

    def taken_over(self, config: AnonymizeConfig) -> None:
        """This version of keyanon works on the run from now on. config: the run's settings as this version knows them."""
        before, now = self.code_version, code_version()
        if before != now:
            self.versions = [*(self.versions or filter(None, [before])), now]
            kept = {name: value for name, value in self.config.items() if name in NEUTRAL_SETTINGS}
            self.config, self.config_digest = {**config.to_json(), **kept}, config.digest()

    def check_keys(self, root: Store, keys: KeyHolder | None) -> None:
        """Raise PublishError unless the keys of the run that wrote `root` are in that keystore, or discarded as now."""
        if self.keystore_id != (None if keys is None else keys.key.keystore_id):
            now_in = "discarded" if keys is None else f"in {keys}, which is {keys.key.keystore_id}"
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


def read_existing(store: Store) -> Manifest | None:
    """The manifest of the run that wrote an output; None when nothing did.

    Raises:
        PublishError: there is something that is no run of keyanon, no directory, or a damaged manifest. MachineError.
    """
    try:
        seen = store.see(MANIFEST)
        if seen is not None:
            return _manifest(store.full(MANIFEST), json.loads(seen.content), seen.version)
        # A run that was killed before its manifest was written leaves its lease, and nothing that counts.
        foreign = any(not _is_a_beginning(name) for name, _ in store.sizes(""))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        said = (error.strerror if isinstance(error, OSError) else None) or error
        raise PublishError(f"output {store} can not be used ({said}); give an empty directory") from error
    if foreign:
        raise PublishError(f"output {store} is not empty and no run of keyanon wrote it; give an empty directory")
    return None


def _is_a_beginning(name: str) -> bool:
    folder, _, rest = name.partition("/")
    return folder == RUN_DIRECTORY and (name == LEASE or rest.endswith(".tmp") or name.startswith(f"{SEGMENTS}/"))


def _manifest(name: str, document: dict[str, Any], version: str) -> Manifest:
    written = document.get("version")
    if written != FORMAT_VERSION:
        later = isinstance(written, int) and written > FORMAT_VERSION
        way = "go on with the later keyanon that wrote it" if later else "give an empty output"
        raise PublishError(f"{name} is of version {written}, and this keyanon writes {FORMAT_VERSION}; {way}")
    if unknown := sorted(document.keys() - {one.name for one in fields(Manifest)}):
        raise PublishError(
            f"{name} says what this keyanon does not know ({', '.join(unknown)}); go on with the later keyanon that wrote it"
        )
    manifest = Manifest(**document, seen=version)
    manifest.config = _as_named_now(manifest.config)
    return manifest


def _as_named_now(config: dict[str, Any]) -> dict[str, Any]:
    """A run's settings by the names of now: `paper` on the embedded prior, an inpainting one, was what is `paper-inpaint` now."""
    older = (config.get("method"), config.get("prior")) == ("paper", EMBEDDED)
    return {**config, "method": "paper-inpaint"} if older else config


def code_version() -> str:
    """Of this keyanon; "unknown" where it is not installed."""
    try:
        return version("keyanon")
    except PackageNotFoundError:
        return "unknown"


def now() -> str:
    """The time as ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def read_complete(store: Store, *, retrying: bool = False) -> Manifest:
    """The manifest of a run that has ended. retrying: one whose retry was stopped will do. Raises as `read_existing`."""
    manifest = read_existing(store)
    if manifest is None:
        raise PublishError(f"{store} is not the output of a keyanon run; give the one of `keyanon anonymize`")
    if manifest.state != COMPLETE and not (retrying and manifest.unfinished_retry is not None):
        raise PublishError(f"the run of {store} is not complete; run its `keyanon anonymize` again first")
    return manifest
