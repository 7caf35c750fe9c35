"""`keyanon keystore approver` and `policy`: who approves with a key of their own, and what the keystore asks for."""

from pathlib import Path
from typing import Annotated

import typer

from jobs.commands.approval import filed
from jobs.commands.asking import KeystorePlace, TokenPath, actors, asked
from jobs.commands.durations import parse_duration
from jobs.commands.options import AT_ITS_WORD, BY_TOKEN, Json, KekUri, KeystorePath, Verbose, kept_text, output_of
from jobs.commands.printing import facts, table

approvers = typer.Typer(help="The approvers who have keys of their own.", no_args_is_help=True)
policies = typer.Typer(help="What a keystore asks for before it gives keys out.", no_args_is_help=True)
People = Annotated[
    list[str] | None,
    typer.Option(
        "--as",
        metavar="NAME",
        help=f"Who agrees to this; repeat for each. Once approvers have keys: who files it, for them to sign. {BY_TOKEN}",
    ),
]
PublicLine = Annotated[
    Path,
    typer.Argument(
        metavar="FILE",
        help="What `keyanon approver-key new` printed, or the console showed: the last line of it counts.",
    ),
]
KeyId = Annotated[str, typer.Argument(metavar="KEY", help="Its id, as `approver list` shows it.")]


@approvers.command("enrol")
def enrol(
    context: typer.Context,
    keystore: KeystorePlace,
    public_line: PublicLine,
    approver: Annotated[str, typer.Option("--for", metavar="NAME", help="Whose key it is.")],
    role: Annotated[str, typer.Option("--role", help="Their team, such as dpo or legal; one each.")],
    people: People = None,
    token_file: TokenPath = None,
    kek: KekUri = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Enrol the key that an approver made. As many other people agree to it as a request needs; from then on only it approves.

    Once so many have enrolled keys, they sign it with those (`keyanon approve --key`), as all changes of the list and the policy;
    an operator's token files it with a service.
    """
    from keystore.decisions.proposals import Enrolment
    from keystore.decisions.signatures import key_id_of, parse_public_line

    line = _last_line(public_line)
    with asked(keystore, kek, token_file) as opened:
        request = opened.propose(Enrolment(approver=approver, role=role, public_line=line), *actors(opened, people))
        if request is not None:
            filed(context, keystore, opened.show(request))
            return
    document = {"key": key_id_of(parse_public_line(line).public_key), "for": approver, "role": role}
    output_of(context).result(
        document, facts("approver enrolled", document), f"Ask {approver} whether this is their key."
    )


@approvers.command("remove")
def remove(
    context: typer.Context,
    keystore: KeystorePlace,
    key: KeyId,
    people: People = None,
    token_file: TokenPath = None,
    kek: KekUri = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Take a key off the list, lost or not. Every open request that it approved ends and is made again.

    As many others as enrol one agree to it, or sign it.
    """
    from keystore.decisions.proposals import Removal

    with asked(keystore, kek, token_file) as opened:
        request = opened.propose(Removal(key=key), *actors(opened, people))
        if request is not None:
            filed(context, keystore, opened.show(request))
            return
    document = {"removed": key}
    output_of(context).result(document, facts("approver removed", document))


@approvers.command("replace")
def replace(
    context: typer.Context,
    keystore: KeystorePlace,
    key: KeyId,
    public_line: PublicLine,
    people: People = None,
    token_file: TokenPath = None,
    kek: KekUri = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Put another key of the same person on the list in the place of one, in one change; open requests that it approved end.

    As many others as enrol one agree to it, or sign it. Whose key it is signs too while they still have the old one, and counts.
    """
    from keystore.decisions.proposals import Replacement
    from keystore.decisions.signatures import key_id_of, parse_public_line

    line = _last_line(public_line)
    with asked(keystore, kek, token_file) as opened:
        request = opened.propose(Replacement(key=key, public_line=line), *actors(opened, people))
        if request is not None:
            filed(context, keystore, opened.show(request))
            return
    document = {"replaced": key, "key": key_id_of(parse_public_line(line).public_key)}
    output_of(context).result(document, facts("approver's key replaced", document))


@approvers.command("lost-keys")
def lost_keys(
    context: typer.Context,
    keystore: KeystorePath,
    people: Annotated[
        list[str],
        typer.Option(
            "--as", metavar="NAME", help=f"Who says so; repeat for each, as many as a request needs. {AT_ITS_WORD}"
        ),
    ],
    keys: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY]...", help="The ids of the lost keys, as `approver list` shows them."),
    ] = None,
    kek: KekUri = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Say that too few keys are left to sign a change: names count again, until enough are enrolled. It is an alert.

    Every audit says so from then on. Refused while enough approvers are left who have keys.
    """
    from keystore.embedded import Keystore

    with Keystore.open(keystore, kek) as opened:
        opened.lose_keys(keys or [], *people)
    hint = f"Keep a checkpoint now, and enrol approvers anew: keyanon keystore approver enrol {keystore} FILE ..."
    output_of(context).result(
        {"lost": keys or []}, facts("keys lost", {"lost": ", ".join(keys or []) or "none more"}), hint
    )


@approvers.command("list")
def list_approvers(
    context: typer.Context,
    keystore: KeystorePlace,
    token_file: TokenPath = None,
    kek: KekUri = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """List the keys that were enrolled, and until when they counted."""
    with asked(keystore, kek, token_file) as opened:
        found = opened.approvers()
    columns = ("key", "of", "role", "enrolled", "removed")
    rows = [(one.key, one.person, one.role, one.enrolled_at, one.removed_at) for one in found]
    output_of(context).result(
        {"approvers": [one.model_dump(mode="json") for one in found]}, table(f"approvers of {keystore}", columns, rows)
    )


@policies.command("show")
def show(
    context: typer.Context,
    keystore: KeystorePlace,
    token_file: TokenPath = None,
    kek: KekUri = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Show the present policy."""
    with asked(keystore, kek, token_file) as opened:
        document = opened.policy().model_dump(mode="json")
    output_of(context).result(document, facts(f"policy of {keystore}", document))


@policies.command("set")
def set_policy(
    context: typer.Context,
    keystore: KeystorePlace,
    people: People = None,
    approvals: Annotated[
        int | None, typer.Option(help="How many people must approve.", show_default="as it is")
    ] = None,
    own_keys: Annotated[
        bool | None,
        typer.Option(
            "--own-keys/--kept-keys",
            help="Only enrolled approvers approve, each with their own key; or anybody, whom the keystore signs for.",
            show_default="as it is",
        ),
    ] = None,
    role: Annotated[
        list[str] | None,
        typer.Option("--role", help="An approver of it must be among them; repeat for more.", show_default="as it is"),
    ] = None,
    any_role: Annotated[bool, typer.Option("--any-role", help="No role must be among them.")] = False,
    legal_basis: Annotated[
        list[str] | None,
        typer.Option(
            "--legal-basis",
            metavar="CODE",
            help="A request names it or another one given here, and no other; repeat for more.",
            show_default="as it is",
        ),
    ] = None,
    usual_legal_bases: Annotated[
        bool, typer.Option("--usual-legal-bases", help="A request names one of those that keyanon comes with.")
    ] = False,
    max_lifetime: Annotated[
        str | None, typer.Option(metavar="DURATION", help="How long a request may stand.", show_default="as it is")
    ] = None,
    grant_lifetime: Annotated[
        str | None, typer.Option(metavar="DURATION", help="How long a grant may be used.", show_default="as it is")
    ] = None,
    max_images: Annotated[
        int | None, typer.Option(help="How many images one asks for.", show_default="as it is")
    ] = None,
    token_file: TokenPath = None,
    kek: KekUri = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Change the policy, by two people at least. Open requests end, and are made again under the new one.

    Once enough approvers have keys of their own, this files the change, and they sign it (`keyanon approve --key`); an operator's
    token files it with a service.
    """
    from keystore.decisions.proposals import NO_POLICY, PolicyProposal
    from keystore.errors import PolicyError

    try:
        seconds = [
            None if one is None else int(parse_duration(one).total_seconds()) for one in (max_lifetime, grant_lifetime)
        ]
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    proposal = PolicyProposal(
        approvals=approvals,
        own_keys=own_keys,
        roles=[] if any_role else role or None,
        legal_bases=[] if usual_legal_bases else legal_basis or None,
        max_lifetime_seconds=seconds[0],
        grant_lifetime_seconds=seconds[1],
        max_images=max_images,
    )
    with asked(keystore, kek, token_file) as opened:
        try:
            policy = proposal.of(opened.policy(), str)
        except PolicyError as error:
            if error.code != NO_POLICY:
                raise
            raise typer.BadParameter(str(error)) from None
        request = opened.propose(proposal, *actors(opened, people))
        if request is not None:
            filed(context, keystore, opened.show(request))
            return
    document = policy.model_dump(mode="json")
    output_of(context).result(document, facts(f"policy of {keystore}", document))


def _last_line(path: Path) -> str:
    lines = kept_text(path, "FILE").strip().splitlines()
    return lines[-1] if lines else ""
