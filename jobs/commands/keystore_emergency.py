"""`keyanon keystore break-glass` and `review`, and who may: keys without approvals, in an emergency, on record and reviewed."""

from typing import Annotated

import typer

from jobs.commands.approval import LegalBasis, PersonOfKeystore, filed
from jobs.commands.asking import KeystorePlace, TokenPath, actor, actors, asked
from jobs.commands.keystore_people import People
from jobs.commands.options import Json, KekUri, RequestId, Verbose, output_of
from jobs.commands.printing import facts


def who_may(
    context: typer.Context,
    keystore: KeystorePlace,
    people: People = None,
    names: Annotated[
        list[str] | None,
        typer.Option("--for", metavar="NAME", help="Who may; repeat for more.", show_default="nobody: it is off"),
    ] = None,
    token_file: TokenPath = None,
    kek: KekUri = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Say who may break the glass, by two people at least; without --for nobody may, as in a new keystore.

    Once enough approvers have keys of their own, they sign it, as any change of the policy.
    """
    from keystore.decisions.proposals import PolicyProposal

    with asked(keystore, kek, token_file) as opened:
        request = opened.propose(PolicyProposal(break_glass=names or []), *actors(opened, people))
        if request is not None:
            filed(context, keystore, opened.show(request))
            return
        policy = opened.policy()
    document = {"may_break_the_glass": names or [], "people": list(policy.break_glass)}
    shown = {"may break the glass": ", ".join(names or []) or "nobody"}
    output_of(context).result(document, facts(f"policy of {keystore}", shown))


def break_glass(
    context: typer.Context,
    keystore: KeystorePlace,
    image: Annotated[list[str], typer.Option("--image", metavar="ID", help="Image to restore; repeat for more.")],
    case: Annotated[str, typer.Option("--case", help="The case this belongs to, such as C-17.")],
    purpose: Annotated[str, typer.Option("--purpose", help="What the restored faces are for.")],
    legal_basis: LegalBasis,
    dataset: Annotated[str | None, typer.Option("--dataset", help="Data set of the images, where ids repeat.")] = None,
    person: PersonOfKeystore = None,
    token_file: TokenPath = None,
    kek: KekUri = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """In an emergency, if the policy names you: a grant for an hour without approvals. It is an alert, and must be reviewed.

    With a service it is for whoever the requester's token is of, and their recovery job takes the keys.
    """
    with asked(keystore, kek, token_file) as opened:
        by = actor(opened, person, named=True)
        view = opened.break_glass(by, image, case, purpose, legal_basis, dataset)
    summary = {"request": view.request_id, "state": str(view.state), "images": len(view.images)}
    hint = f"Nobody breaks the glass again before others have reviewed this: keyanon keystore review {keystore} {view.request_id}"
    output_of(context).result(view.model_dump(mode="json"), facts("the glass is broken", summary), hint)


def review(
    context: typer.Context,
    keystore: KeystorePlace,
    request: RequestId,
    people: People = None,
    token_file: TokenPath = None,
    kek: KekUri = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Say that a break of the glass was looked into: as many others agree to this as a request needs.

    Once enough approvers have keys of their own, this files it, and they sign it (`keyanon approve --key`); an operator's token
    files it with a service.
    """
    from keystore.decisions.proposals import Review

    with asked(keystore, kek, token_file) as opened:
        review_request = opened.propose(Review(request=request), *actors(opened, people))
        if review_request is not None:
            filed(context, keystore, opened.show(review_request))
            return
    document = {"request": request, "reviewed": True}
    output_of(context).result(document, facts("break of the glass reviewed", document))
