"""What a run says of itself when it has ended."""

from dataclasses import asdict, dataclass, field
from typing import Any, Final

UNPUBLISHED: Final = frozenset({"key_attempts", "further_keys"})  # of a report: they depend on the sources


@dataclass(frozen=True)
class RunReport:
    """Numbers only. rows: in the output, of input_rows and the gone_rows beside them; fewer with a limit. Times in seconds, sizes
    in bytes; rates, key_attempts and further_keys are of this attempt's fresh rows. procedure: how each face was made, for
    people. fidelities: how many pictures come back so. subjects: whose pseudonyms this attempt's fresh rows show. pseudonyms: see
    `PseudonymCounts`; {} of a run without. clips: that were joined, clips_missing: that were not, and why; of a complete run over
    clips.

    `OUT/_keyanon/report.json` holds all but `UNPUBLISHED`.
    """

    run_id: str
    output: str
    keystore: str | None
    inbox: str | None
    dataset: str
    input_rows: int
    rows: int
    statuses: dict[str, int]
    reasons: dict[str, int]
    faces: int
    kept_faces: int
    key_attempts: int
    further_keys: int
    resumed_rows: int
    ignored_files: int
    keys_stored: int
    orphan_shards_removed: int
    seconds: float
    anonymize_seconds: float
    images_per_second: float
    faces_per_second: float
    bytes_of: dict[str, int] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    procedure: str = ""
    fidelities: dict[str, int] = field(default_factory=dict)
    gone_rows: int = 0
    subjects: int = 0
    pseudonyms: dict[str, int] = field(default_factory=dict)
    clips: list[str] = field(default_factory=list)
    clips_missing: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON types."""
        return asdict(self)

    def published(self) -> dict[str, Any]:
        """What stands in the output. How many keys a face needed depends on its source; a run may be of one face."""
        return {name: value for name, value in self.to_dict().items() if name not in UNPUBLISHED}
