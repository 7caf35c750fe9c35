"""The verdict of an audit, and how far it reaches."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class AuditReport(BaseModel):
    """The verdict of an audit.

    `ok`: nothing looked at contradicts anything else; `problems` is empty exactly then. `intact`: ok, and the log extends
    a checkpoint that was kept elsewhere, so that even the holder of the KEK did not rewrite its first `vouched_size` entries.
    `limits` says what this audit can not vouch for.
    """

    model_config = ConfigDict(frozen=True)

    ok: bool
    intact: bool
    origin: str
    size: int
    root: str
    checkpoint: str
    witnessed_size: int | None
    vouched_size: int | None
    problems: list[str]
    limits: list[str]
