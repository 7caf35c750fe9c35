"""The `keyanon` command line.

`main` is the console script and the only place that catches errors: each becomes one line on stderr and one of the exit
codes of `jobs.exit_codes`; a traceback is shown with -v only, and never with local variables, which may hold keys.
Commands import torch and Ray when they run, not when they are loaded: `keyanon request` starts in a moment.
"""

import logging
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated

import typer

from jobs.commands import (
    anonymize,
    approval,
    approver_key,
    attack,
    audit,
    clips,
    evaluate,
    export,
    inspect,
    keystore_admin,
    keystore_emergency,
    keystore_identity,
    keystore_people,
    keystore_report,
    keystore_service,
    plan,
    propose_subjects,
    quarantine,
    reconcile,
    recover,
    resume,
    status,
    train_prior,
    verify,
)
from jobs.commands.printing import Output
from jobs.exit_codes import ExitCode, exit_code_of
from keyanon_core.errors import KeyanonError

app = typer.Typer(
    name="keyanon",
    help="Anonymize the faces in a data set of images; restore one only with the approval of several people.",
    epilog="Exit codes: 0 done, 1 defect, 2 usage, 3 input, 4 refused by the keystore, 5 wrong key or tampered, "
    "6 not converged, 7 rows quarantined (--strict, --max-failure-rate), 8 a figure beyond its limit, or an attack that won, "
    "75 try again, 130 interrupted.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"keyanon {version('keyanon')}")
        raise typer.Exit


@app.callback()
def _every_command(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    pass


app.command("plan")(plan.plan)
app.command("anonymize")(anonymize.anonymize)
app.command("resume")(resume.resume)
app.command("status")(status.status)
app.command("verify")(verify.verify)
app.command("export")(export.export)
app.command("attack")(attack.attack)
app.command("reconcile")(reconcile.reconcile)
app.command("request")(approval.request)
app.command("approve")(approval.approve)
app.command("deny")(approval.deny)
app.command("requests")(approval.requests)
app.command("show")(approval.show)
app.command("recover")(recover.recover)
app.command("evaluate")(evaluate.evaluate)
app.command("propose-subjects")(propose_subjects.propose_subjects)
app.command("train-prior")(train_prior.train_prior)
app.command("inspect")(inspect.inspect)
app.command("clips")(clips.clips)
app.add_typer(quarantine.app, name="quarantine")
keystore_admin.app.command("break-glass")(keystore_emergency.break_glass)
keystore_admin.app.command("review")(keystore_emergency.review)
keystore_people.policies.command("break-glass")(keystore_emergency.who_may)
keystore_admin.app.command("report")(keystore_report.report)
keystore_admin.app.command("erasure-receipt")(keystore_report.erasure_receipt)
keystore_admin.app.command("serve")(keystore_service.serve)
keystore_admin.app.command("witness")(keystore_service.witness)
keystore_admin.app.command("use-witness")(keystore_service.use_witness)
keystore_admin.app.command("drop-witness")(keystore_service.drop_witness)
keystore_admin.app.add_typer(keystore_service.tokens, name="token")
keystore_admin.app.command("sign-in")(keystore_identity.sign_in)
keystore_admin.app.add_typer(keystore_identity.identities, name="identity")
keystore_admin.app.add_typer(keystore_people.approvers, name="approver")
keystore_admin.app.add_typer(keystore_people.policies, name="policy")
app.add_typer(keystore_admin.app, name="keystore")
app.add_typer(approver_key.app, name="approver-key")
app.add_typer(audit.app, name="audit")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. `arguments`: without the program's name; `sys.argv` by default."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="keyanon: %(levelname)s: %(message)s")
    output = Output()
    command = typer.main.get_command(app)
    try:
        command.main(args=None if arguments is None else list(arguments), prog_name="keyanon", obj=output)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else ExitCode.OK
    except BaseException as error:  # noqa: BLE001  the one catch: whatever it is, the shell gets a line and a code
        code = exit_code_of(error)
        output.failure(error, _explain(error, code), code)
        return code
    return ExitCode.OK


def _explain(error: BaseException, code: ExitCode) -> str:
    """What the user reads: the message of an error raised on purpose; of a surprise only its type."""
    if code is ExitCode.UNEXPECTED and not isinstance(error, KeyanonError):
        return f"unexpected {type(error).__name__}, a defect in keyanon; run again with -v and report what it prints"
    return str(error)


if __name__ == "__main__":
    sys.exit(main())
