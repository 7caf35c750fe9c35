"""The verdict of an audit."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class AuditReport(BaseModel):
    """The verdict of an audit. `problems` is empty exactly when `ok`."""

    model_config = ConfigDict(frozen=True)

    ok: bool
    origin: str
    size: int
    root: str
    checkpoint: str
    witnessed_size: int | None
    problems: list[str]
