"""The columns of the Ray blocks that travel between the stages, and of the row shards they end in.

Encoded bytes travel, never arrays; sealed records travel, never keys. The columns of this project carry a prefix in
blocks, so that the user's own columns pass through untouched whatever they are called.
"""

from typing import Any, Final

import pyarrow as pa

# From the source
ROW: Final = "keyanon_row"  # its number in the output, see `jobs.output.numbering`
ID: Final = "keyanon_id"
SUBJECT: Final = "keyanon_subject"
ENCODED: Final = "keyanon_encoded"  # the picture's file as it was read; null when `FAILURE` says why
VERSION: Final = "keyanon_source_version"  # of its file, see `jobs.sources.source.version_of`
FAILURE: Final = "keyanon_failure"  # "" or `code: explanation`
GIVEN: Final = "keyanon_given"  # what the user says of its faces (`GivenFaces.to_json`); null when nothing
PERMANENT: Final = "keyanon_permanent"  # True: its key is made and forgotten
# From detection
FACES: Final = "keyanon_faces"  # JSON list of faces to anonymize
KEPT_FACES: Final = "keyanon_kept_faces"  # JSON list of faces to leave alone
# From anonymization; what is published
STATUS: Final = "keyanon_status"
REASON: Final = "keyanon_reason"
RECORD_ID: Final = "keyanon_record_id"
SEALED: Final = "keyanon_sealed"  # the key record, sealed to the keystore
TRACK_RECORDS: Final = "keyanon_track_records"  # of a piece of a clip: whose each of its key records is
FURTHER_SEALED: Final = "keyanon_further_sealed"  # those but the first one, sealed
OUTPUT: Final = "keyanon_output"  # the anonymized picture's file
SIDECAR: Final = "keyanon_sidecar"
FIDELITY: Final = "keyanon_fidelity"  # how the picture's faces come back
PSEUDONYM: Final = (
    "keyanon_pseudonym"  # whether a subject's pseudonym decided its largest face; null without pseudonyms
)
SOURCE_HMAC: Final = "keyanon_source_hmac"  # names the source for holders of the image key alone
OUTPUT_SHA256: Final = "keyanon_output_sha256"
FACE_COUNT: Final = "keyanon_face_count"
KEPT_COUNT: Final = "keyanon_kept_count"  # faces left alone because the user keeps them

PREFIX: Final = "keyanon_"
BYTES_FIELD: Final = "bytes"  # of a struct column, as Hugging Face data sets store pictures
TRACK_RECORDS_TYPE: Final = pa.list_(pa.struct([("track", pa.int32()), ("record_id", pa.string())]))
# Blocks can exceed 2 GiB of bytes in one column: 64-bit offsets.
SOURCE_SCHEMA: Final = pa.schema(
    [
        (ROW, pa.int64()),
        (ID, pa.string()),
        (SUBJECT, pa.string()),
        (ENCODED, pa.large_binary()),
        (FAILURE, pa.string()),
        (GIVEN, pa.large_string()),
        (PERMANENT, pa.bool_()),
        (VERSION, pa.int32()),
    ]
)
RESULT_SCHEMA: Final = pa.schema(
    [
        (ROW, pa.int64()),
        (ID, pa.string()),
        (STATUS, pa.string()),
        (REASON, pa.string()),
        (RECORD_ID, pa.string()),
        (SEALED, pa.large_binary()),
        (TRACK_RECORDS, TRACK_RECORDS_TYPE),
        (FURTHER_SEALED, pa.list_(pa.large_binary())),
        (OUTPUT, pa.large_binary()),
        (SIDECAR, pa.large_binary()),
        (FIDELITY, pa.string()),
        (SOURCE_HMAC, pa.string()),
        (OUTPUT_SHA256, pa.string()),
        (FACE_COUNT, pa.int32()),
        (KEPT_COUNT, pa.int32()),
        (PERMANENT, pa.bool_()),
        (PSEUDONYM, pa.bool_()),
        (VERSION, pa.int32()),
    ]
)
# What a row shard says about every row; Parquet input adds its own columns, the picture's bytes and `SIDECAR`.
SHARD_SCHEMA: Final = pa.schema(
    [
        ("row", pa.int64()),
        ("image_id", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("record_id", pa.string()),
        ("output", pa.string()),
        ("sidecar", pa.string()),
        ("source_hmac", pa.string()),
        ("output_sha256", pa.string()),
        ("sidecar_sha256", pa.string()),
        ("faces", pa.int32()),
        ("kept", pa.int32()),
        ("permanent", pa.bool_()),
        ("fidelity", pa.string()),
        ("source_version", pa.int32()),
        ("pseudonym", pa.bool_()),
        ("track_records", TRACK_RECORDS_TYPE),
    ]
)
ADDED_LATER: Final = frozenset(
    {"fidelity", "source_version", "pseudonym", "track_records"}
)  # of which shards of earlier versions lack some: null


def passthrough(table: pa.Table) -> pa.Table:
    """The user's own columns of a block."""
    return table.select([name for name in table.column_names if not name.startswith(PREFIX)])


def with_results(table: pa.Table, results: list[dict[str, Any]]) -> pa.Table:
    """The user's own columns of a block, and its rows' versions, beside one result for each of them (keys: those of
    RESULT_SCHEMA)."""
    columns = {name: pa.array([row.get(name) for row in results], kind) for name, kind in _fields(RESULT_SCHEMA)}
    if VERSION in table.column_names:
        columns[VERSION] = table.column(VERSION)
    kept = passthrough(table)
    return pa.table({**columns, **{name: kept.column(name) for name in kept.column_names}})


def source_table(rows: list[dict[str, Any]], own: pa.Table | None = None) -> pa.Table:
    """A source block from row dictionaries (keys: those of SOURCE_SCHEMA) and the user's own columns."""
    columns = {name: pa.array([row.get(name) for row in rows], kind) for name, kind in _fields(SOURCE_SCHEMA)}
    names = own.column_names if own is not None else []
    return pa.table({**columns, **{name: own.column(name) for name in names if own is not None}})


def _fields(schema: pa.Schema) -> list[tuple[str, pa.DataType]]:
    return [(field.name, field.type) for field in schema]
