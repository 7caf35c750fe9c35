"""What a run published of some pictures, beside their sources: what attacks on a run's own output start from."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from keyanon_core.faces.detection import Face, Pixels
from keyanon_core.pictures.crops import AlignedFace
from keyanon_core.sidecar import Sidecar


@dataclass(frozen=True)
class PublishedPicture:
    """source, shown: (H, W, 3) uint8, before and after. sidecar: None where none was written.

    faces: those of the source, outlined and cut as the run does it. searched: what another search of the source finds.
    listed: faces that the run says it anonymized. fields: every number that was published of it, by name. subject: whose picture
    it is said to be.
    """

    image_id: str
    source: Pixels = field(repr=False)
    shown: Pixels = field(repr=False)
    sidecar: Sidecar | None
    faces: tuple[AlignedFace, ...] = field(repr=False)
    searched: tuple[Face, ...] = field(repr=False)
    listed: int
    fields: Mapping[str, float] = field(default_factory=dict)
    subject: str | None = field(default=None, repr=False)
