"""`keyanon keystore`: making and keeping a keystore, and taking in the sealed shards of runs."""

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from jobs.commands.ingest_rounds import Rounds, Totals
from jobs.commands.options import (
    EndpointUrl,
    Json,
    KekUri,
    KeystorePath,
    Person,
    Verbose,
    acting_person,
    kept_text,
    output_of,
)
from jobs.commands.printing import facts, table
from jobs.exit_codes import ExitCode

if TYPE_CHECKING:
    from jobs.output.bucket_inbox import Courier
    from keystore.intake.report import IngestReport

_LOGGER = logging.getLogger(__name__)
FOLLOW_SECONDS = 2.0  # between two looks into the inbox

app = typer.Typer(help="Make and keep a keystore.", no_args_is_help=True)


@app.command("init")
def init(
    context: typer.Context,
    keystore: Annotated[Path, typer.Argument(metavar="PATH", help="Directory that does not exist yet, or is empty.")],
    database: Annotated[
        str | None,
        typer.Option(
            "--database",
            metavar="postgresql://...",
            help="Keep it in this PostgreSQL database, named without a password (that is in ~/.pgpass, PGPASSFILE or "
            "PGPASSWORD). PATH keeps the rest: KEK file, witness, inbox, published keys.",
            show_default="SQLite, in PATH",
        ),
    ] = None,
    kek: KekUri = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Make an empty keystore. `keyanon anonymize` does the same on first use, in SQLite."""
    from keystore.embedded import Keystore

    with Keystore.create(keystore, kek, database=database) as made:
        document = {"keystore": str(keystore), "id": made.id, "audit_key": made.audit_vkey}
    output_of(context).result(document, facts("keystore made", document))


@app.command("move")
def move(
    context: typer.Context,
    keystore: KeystorePath,
    database: Annotated[
        str, typer.Option("--database", metavar="postgresql://...", help="The empty database, named as its owner.")
    ],
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Move a keystore from SQLite into PostgreSQL: the same records and the same log. End the service and ingest first."""
    from keystore.moving import move as move_keystore

    document = {"database": database, "rows": move_keystore(keystore, database)}
    hint = (
        f"The old database is {keystore / 'keystore.db.moved'}; it is closed. Destroy it when the new one has a backup, "
        "and apply infra/postgresql/roles.sql as the owner."
    )
    output_of(context).result(document, facts("keystore moved", document), hint)


@app.command("erase-person")
def erase_person(
    context: typer.Context,
    keystore: KeystorePath,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Who asked, approved or denied here once.")],
    person: Person,
    kek: KekUri = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Forget a person's name. What they did stays on record without it, and the name can not act here again."""
    from keystore.embedded import Keystore

    with Keystore.open(keystore, kek) as opened:
        opened.erase_person(name, acting_person(person))
    document = {"erased": True}
    output_of(context).result(document, facts("person erased", document))


@app.command("restore-witness")
def restore_witness(
    context: typer.Context,
    keystore: KeystorePath,
    checkpoint: Annotated[
        Path, typer.Option("--checkpoint", metavar="FILE", help="The newest checkpoint kept elsewhere.")
    ],
    kek: KekUri = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Start a lost witness again from a checkpoint that was kept elsewhere. Ends every open request."""
    from keystore.embedded import Keystore

    with Keystore.open(keystore, kek, checkpoint=kept_text(checkpoint, "--checkpoint")) as opened:
        document = {"entries": len(opened.audit_entries())}
    output_of(context).result(document, facts("witness in place", document))


@app.command("confirm-clock")
def confirm_clock(
    context: typer.Context,
    keystore: KeystorePath,
    person: Person,
    kek: KekUri = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Say that the clock is right although it is behind the keystore's log (this ends open requests), or far ahead of it."""
    from keystore.embedded import Keystore

    with Keystore.open(keystore, kek) as opened:
        opened.confirm_clock(acting_person(person))
    document = {"confirmed": True}
    output_of(context).result(document, facts("clock confirmed", document))


@app.command("erase")
def erase(
    context: typer.Context,
    keystore: KeystorePath,
    dataset: Annotated[str, typer.Option("--dataset", help="Data set of whom or what is erased.")],
    person: Person,
    subject: Annotated[str | None, typer.Option("--subject", help="Erase this subject, with all its images.")] = None,
    image: Annotated[
        str | None, typer.Option("--image", metavar="ID", help="Erase this image, which has no subject.")
    ] = None,
    kek: KekUri = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Destroy the keys of a subject or an image for good. No kept shard brings them back."""
    from keystore.embedded import Keystore

    with Keystore.open(keystore, kek) as opened:
        gone = opened.erase(dataset, acting_person(person), subject=subject, image_id=image)
    document = {"dataset": dataset, "records": gone}
    hint = (
        "Kept shards still open with the present ingest key; once no run goes on: "
        f"keyanon keystore renew-ingest-key {keystore} --retire --as NAME"
    )
    output_of(context).result(document, facts("erased", document), hint)


@app.command("renew-ingest-key")
def renew_ingest_key(
    context: typer.Context,
    keystore: KeystorePath,
    person: Person,
    retire: Annotated[
        bool,
        typer.Option("--retire", help="Also destroy the older keys. Not while a run goes on: its keys would be lost."),
    ] = False,
    kek: KekUri = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Make a new key for runs to seal to. With --retire, kept shards, sealed to the older ones, can not be opened any more."""
    from keystore.embedded import Keystore

    by = acting_person(person)
    if retire:
        from jobs.output.inboxes import check_no_shard_waits

        check_no_shard_waits(keystore)
    with Keystore.open(keystore, kek) as opened:
        opened.renew_ingest_key(by)
        retired = opened.retire_ingest_keys(by) if retire else []
    document = {"renewed": True, "retired": len(retired)}
    hint = f"Runs that name it by an address need its new pin: keyanon keystore ingest-key {keystore} --url ADDRESS"
    output_of(context).result(document, facts("ingest key renewed", document), hint)


@app.command("rotate-kek")
def rotate_kek(
    context: typer.Context,
    keystore: KeystorePath,
    to: Annotated[
        str,
        typer.Option(
            "--to", metavar="URI", help="The new KEK, such as file:PATH or vault:transit/KEY; made if need be."
        ),
    ],
    person: Person,
    kek: KekUri = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Wrap the keystore's epoch keys under another key-encryption key. Destroy the old one then: older backups open no more."""
    from keystore.embedded import Keystore

    with Keystore.open(keystore, kek) as opened:
        document = {"kek": to, "epoch keys": opened.rotate_kek(to, acting_person(person))}
    hint = "Destroy the old KEK and all its copies: with them the backups from before open."
    output_of(context).result(document, facts("key-encryption key changed", document), hint)


@app.command("ingest-key")
def ingest_key(
    context: typer.Context,
    keystore: KeystorePath,
    url: Annotated[
        str | None,
        typer.Option(
            metavar="https://HOST:PORT|s3://bucket/key",
            help="Where the service, or a bucket, has it: print this address with the key's pin instead.",
        ),
    ] = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Print what `anonymize --ingest-key` takes: the keystore's public keys. It needs no KEK, and nothing in it is secret."""
    from keystore.auditor import Auditor

    key = Auditor(keystore).ingest_key()
    document = {"keystore": key.keystore_id, "ingest_key": key.text(), "sha256": key.fingerprint}
    if url is not None:
        document["url"] = _with_pin(url, key.fingerprint)
    output_of(context).result(document, document.get("url", key.text().rstrip("\n")))


def _with_pin(url: str, sha256: str) -> str:
    """The address at which runs find a key. Raises ConfigError, typer.BadParameter."""
    from jobs.storage.place import as_ingest_key, is_service
    from keystore.service.published_key import INGEST_KEY_PATH

    try:
        if is_service(url) and urlsplit(url).path in ("", "/"):
            url = url.rstrip("/") + INGEST_KEY_PATH
        pinned = as_ingest_key(f"{url}#sha256={sha256}")
    except ValueError as error:  # of a host that can be none
        raise typer.BadParameter(str(error), param_hint="--url") from error
    if isinstance(pinned, Path):
        raise typer.BadParameter("an address is https://HOST:PORT or s3://bucket/key", param_hint="--url")
    return pinned


@app.command("ingest")
def ingest(
    context: typer.Context,
    keystore: KeystorePath,
    run: Annotated[
        str | None, typer.Option("--run", metavar="ID", help="Only this run.", show_default="all in the inbox")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Go on taking in what comes, until interrupted.")] = False,
    accept: Annotated[
        str | None,
        typer.Option("--accept", metavar="DATASET", help="Runs that were not announced may add to this data set."),
    ] = None,
    inbox: Annotated[
        str | None, typer.Option(metavar="DIR|s3://...", help="Where shards lie.", show_default="KEYSTORE/inbox")
    ] = None,
    endpoint_url: EndpointUrl = None,
    processes: Annotated[int, typer.Option(min=1, help="Processes that take in side by side.")] = 1,
    kek: KekUri = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Take the sealed shards in the inbox in, with the keys of ingest only: no record that is stored can be read by it."""
    from jobs.errors import MachineError
    from jobs.output.inboxes import remember
    from jobs.storage.place import as_place
    from keystore.ingest_opening import IngestOpening

    courier, folder = _inbox_of(keystore, inbox, endpoint_url)
    with IngestOpening.open(keystore, kek, receipts=True, inbox=folder) as opened:
        if inbox is not None:
            remember(keystore, as_place(inbox), endpoint_url)
        rounds, totals = Rounds(opened, run, accept, kek, processes, courier), Totals()
        if not follow:
            _report(context, list(rounds.take_in()))
            return
        try:
            totals.add(rounds.take_in())
            while True:
                time.sleep(FOLLOW_SECONDS)
                try:
                    totals.add(rounds.take_in())
                except (MachineError, OSError) as error:  # a bucket or a disk that is away may come back
                    _LOGGER.error("%s", error)
        except KeyboardInterrupt:  # the way to end it; a shard is taken in wholly or not at all
            pass
    _report_totals(context, totals, rounds)


def _inbox_of(keystore: Path, inbox: str | None, endpoint_url: str | None) -> tuple["Courier | None", Path | None]:
    """What carries to and fro where the inbox lies in a bucket, and the folder to take in from. Raises ConfigError."""
    if inbox is None:
        return None, None
    from jobs.errors import ConfigError
    from jobs.output.bucket_inbox import BucketInbox, Courier
    from jobs.storage.opening import open_store
    from jobs.storage.place import as_place, check_endpoint

    place = as_place(inbox)
    if isinstance(place, Path):
        if not place.is_dir():
            raise ConfigError(f"inbox {place} is no directory; make it, or mend its name")
        return None, place
    store = open_store(place, None if endpoint_url is None else check_endpoint(endpoint_url))
    store.check()
    courier = Courier(BucketInbox(store), keystore)
    return courier, courier.spool.root


def _report(context: typer.Context, reports: list["IngestReport"]) -> None:
    rejected = [(one.shard, one.index, one.record_id, one.reason) for report in reports for one in report.rejected]
    output_of(context).result(
        {"runs": [report.model_dump(mode="json") for report in reports]},
        table(
            "ingested",
            ("run", "shards", "new records", "already present", "erased before", "rejected"),
            [(r.run_id, len(r.shards), r.ingested, r.already_present, len(r.erased), len(r.rejected)) for r in reports],
        ),
        *([table("not taken in", ("shard", "index", "record", "reason"), rejected)] if rejected else []),
    )
    if rejected or any(report.failed_shards for report in reports):
        raise typer.Exit(ExitCode.WRONG_KEY_OR_TAMPERED)


def _report_totals(context: typer.Context, totals: Totals, rounds: Rounds) -> None:
    columns = ("run", "shards", "ingested", "already_present", "erased", "rejected", "failed")
    runs = [{"run": run, **counts} for run, counts in totals.runs.items()]
    document = {"runs": runs, "left": len(rounds.left)}
    output_of(context).result(document, table("ingested", columns, [tuple(one.values()) for one in runs]))
    if rounds.refused:
        raise typer.Exit(ExitCode.WRONG_KEY_OR_TAMPERED)
