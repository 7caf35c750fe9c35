"""The settings of a proposal."""

import hashlib
from pathlib import Path
from typing import Final, Literal

from pydantic import Field

from jobs.sources.config import InputConfig
from keystore.crypto.canonical import canonical_json

_NEUTRAL: Final = frozenset({"photos", "image_root", "output", "endpoint_url", "workers", "threshold"})


class ProposeConfig(InputConfig):
    """output: a directory for the proposal, which shows people in clear."""

    output: Path
    threshold: float | None = Field(
        default=None,
        gt=0,
        description="mean distance of two groups of faces that are one person; None: see `same_people`",
    )
    face_models: Literal["embedded", "facexlib"] = "embedded"
    face_weights: Path | None = None
    workers: int = Field(default=0, ge=0, description="processes; 0: as many as there are CPUs")

    def digest(self, source: str) -> str:
        """sha256 over what decides which faces are found: a stopped proposal goes on only if it is the same.

        source: its digest.
        """
        meant = {name: value for name, value in self.model_dump(mode="json").items() if name not in _NEUTRAL}
        return hashlib.sha256(canonical_json({**meant, "source": source, "kind": "subjects"})).hexdigest()
