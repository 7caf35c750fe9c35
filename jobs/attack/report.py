"""What attacks on a run came to, as JSON and as one page that needs nothing beside it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from jobs.pages import data_uri, page_environment
from keyanon_core.evaluation.attacks import NOT_COVERED, Attack, Outcome
from keyanon_core.evaluation.attacks.outcome import FALSE_ALARMS, LOOKS
from keyanon_core.evaluation.trial import Trial, pictures_of
from keyanon_core.faces.detection import Pixels
from keyanon_core.imaging import encode_picture

FORMAT: Final = "keyanon-attacks/1"
SHOWN: Final = 12  # faces in the page


@dataclass(frozen=True)
class Tried:
    """An attack and what it came to; outcome None where it was not tried, and why."""

    attack: Attack
    outcome: Outcome | None
    why_not: str = ""

    @property
    def broken(self) -> bool:
        """Whether it wins where keyanon is made to withstand it."""
        return self.attack.promised and self.outcome is not None and self.outcome.measured.wins

    @property
    def verdict(self) -> str:
        if self.outcome is None:
            return "not tried"
        if not self.outcome.conclusive:
            return "inconclusive"
        if not self.outcome.measured.wins:
            return "perhaps" if self.outcome.measured.doubtful else "fails"
        return "WINS" if self.attack.promised else "wins, as documented"

    @property
    def meaning(self) -> str:
        """What the result means, for people."""
        if self.outcome is None:
            return self.why_not
        doubt = (
            " The interval lies above chance all the same: try it on more faces." if self.verdict == "perhaps" else ""
        )
        return self.outcome.sentence + doubt

    def to_dict(self) -> dict[str, Any]:
        known = {"family": self.attack.number, "name": self.attack.name, "holds": self.attack.holds}
        known |= {"promised": self.attack.promised, "verdict": self.verdict}
        if self.outcome is None:
            return {**known, "why_not": self.why_not}
        one = self.outcome
        figures = {"result": one.measured, "negative_control": one.negative, "positive_control": one.positive}
        return {
            **known,
            **{name: figure.to_dict() for name, figure in figures.items()},
            "conclusive": one.conclusive,
            "sentence": self.meaning,
            "details": dict(one.details),
        }


@dataclass(frozen=True)
class AttackReport:
    """faces: that were attacked, one of each of so many pictures. left_out: pictures that could not be used, with the reason."""

    run_id: str
    procedure: str
    prior: str
    prior_digest: str
    seed: int
    made: str
    pictures: int
    faces: int
    tried: Sequence[Tried]
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def broken(self) -> list[Tried]:
        """Attacks that win and should not."""
        return [one for one in self.tried if one.broken]

    @property
    def unsettled(self) -> list[Tried]:
        """Attacks of which nothing can be said, since a control failed, that should not win."""
        return [one for one in self.tried if one.attack.promised and one.outcome and not one.outcome.conclusive]

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        return {
            "kind": "attacks",
            "format": FORMAT,
            "run_id": self.run_id,
            "procedure": self.procedure,
            "prior": self.prior,
            "prior_digest": self.prior_digest,
            "seed": self.seed,
            "made": self.made,
            "pictures": self.pictures,
            "faces": self.faces,
            "left_out": dict(self.left_out),
            "false_alarms": FALSE_ALARMS,
            "looks": LOOKS,
            "attacks": [one.to_dict() for one in self.tried],
            "not_covered": list(NOT_COVERED),
        }

    def to_json(self) -> bytes:
        return (json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n").encode()


def page_of(report: AttackReport, trial: Trial) -> bytes:
    """The page: HTML with everything in it. It shows faces of the sources."""
    rows = (("source", trial.sources), ("published", trial.published.crops))
    shown = [(name, [_shown(pixels) for pixels in pictures_of(crops[:SHOWN])]) for name, crops in rows]
    template = page_environment("jobs.attack").get_template("attacks.html.j2")
    page = template.render(report=report, rows=shown, not_covered=NOT_COVERED, false_alarms=FALSE_ALARMS, looks=LOOKS)
    return page.encode()


def _shown(pixels: Pixels) -> str:
    return data_uri(encode_picture(pixels, "png"), "png")
