"""The record of processing (GDPR Art. 30(1)): what only the controller knows, beside what the keystore can count."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Connection, func, select

from keystore.decisions import stored_policy
from keystore.decisions.policy import Policy
from keystore.reporting.controller import Controller
from keystore.storage import schema

MEASURES = (
    "Art. 4(5): pictures are pseudonymised; what restores them is kept apart from them, in this keystore",
    "Art. 32: each key record is in AES-256-GCM under a key of its subject or image, that under an epoch key, that under the KEK",
    "Art. 32: keys leave by an approved, one-shot, time-boxed grant only, sealed to one recipient, with an entry in a signed log",
    "Art. 17: erasure destroys the keys of a subject; a receipt can be verified without the keystore",
)


class DatasetLine(BaseModel):
    """What is held of one data set. keys: of subjects, or of images without one, in each epoch that they came in."""

    model_config = ConfigDict(frozen=True)

    dataset: str
    records: int
    keys: int
    runs: int
    first_ingested_at: str
    last_ingested_at: str


class Processing(BaseModel):
    """The record of processing."""

    model_config = ConfigDict(frozen=True)

    controller: Controller
    since: str
    data_categories: str = "pseudonymised photographs of faces: boxes, masks and keys that restore them"
    measures: tuple[str, ...] = MEASURES
    kek: str = Field(description="the scheme of where the KEK is kept")
    policy: Policy
    datasets: list[DatasetLine]


def processing_of(connection: Connection, controller: Controller) -> Processing:
    """Return the record of processing of a keystore. Raises TamperedError, PolicyError: its policy is not one."""
    records, keys, versions = schema.records.c, schema.shred_keys.c, schema.kek_versions.c
    counted = select(keys.dataset, func.count().label("held")).group_by(keys.dataset)
    keys_of: dict[str, int] = {row.dataset: row.held for row in connection.execute(counted)}
    held = select(
        records.dataset,
        func.count(),
        func.count(records.run_id.distinct()),
        func.min(records.ingested_at),
        func.max(records.ingested_at),
    )
    lines = [
        DatasetLine(
            dataset=dataset,
            records=count,
            keys=keys_of.get(dataset, 0),
            runs=runs,
            first_ingested_at=first,
            last_ingested_at=last,
        )
        for dataset, count, runs, first, last in connection.execute(
            held.group_by(records.dataset).order_by(records.dataset)
        )
    ]
    uri = str(connection.execute(select(versions.uri).order_by(versions.version.desc()).limit(1)).scalar_one())
    return Processing(
        controller=controller,
        since=str(connection.execute(select(schema.identity.c.created_at)).scalar_one()),
        kek=uri.partition(":")[0],
        policy=stored_policy.read(connection),
        datasets=lines,
    )
