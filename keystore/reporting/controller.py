"""What only the controller knows of the processing. Apart from `processing`, because who calls the service needs no database."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

MAX_WORDS_CHARACTERS = 10_000
UNSAID = "not said; see --about"


class Controller(BaseModel):
    """What the controller says of the processing; what is left out is shown as not said."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_max_length=MAX_WORDS_CHARACTERS)

    controller: str = UNSAID
    contact: str = UNSAID
    protection_officer: str = UNSAID
    purposes: str = UNSAID
    data_subjects: str = UNSAID
    recipients: str = UNSAID
    transfers: str = UNSAID
    erasure_after: str = UNSAID
