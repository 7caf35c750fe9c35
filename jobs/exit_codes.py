"""What `keyanon` returns to the shell. `docs/commands.md` repeats this table for users.

The numbers tell a script what to do next: 3 is repaired on this machine, 4 by people (a request, an approval, a policy),
5 must never be retried (something is not what it was when it was written), 6 is a numerical limit. 75 is the only one that a
scheduler may answer by running the same command again: the number is that of sysexits.h, EX_TEMPFAIL ("temporary failure;
the user is invited to retry"), which batch systems and their users know, and which no shell or signal uses.
"""

from enum import IntEnum

from jobs.errors import (
    ConfigError,
    DefectError,
    KeysWaitingError,
    LeaseError,
    MachineError,
    PseudonymsRefusedError,
    TooManyQuarantinedError,
)
from keyanon_core.errors import ConvergenceError, KeyanonError, NotReversibleError, SidecarError, WrongKeyError
from keystore.errors import (
    AuditError,
    InvalidRecordError,
    KekError,
    KeystoreError,
    ShardExistsError,
    StorageError,
    TamperedError,
    WrongKekError,
)


class ExitCode(IntEnum):
    """The exit codes of every `keyanon` command."""

    OK = 0
    UNEXPECTED = 1  # a defect in keyanon: run again with -v and report it
    USAGE = 2  # the command line or a configuration file is wrong
    INPUT = 3  # an input, an output directory, a prior, a model, a keystore directory or a KEK file can not be used
    REFUSED = 4  # the keystore refuses: unknown record, missing approval, expired or used grant, policy
    WRONG_KEY_OR_TAMPERED = 5  # wrong KEK or image key, an edited shard, record, sidecar or audit log
    NOT_CONVERGED = (
        6  # the inverse could not be solved to its tolerance, or the way back was tried and does not come back
    )
    QUARANTINED = (
        7  # anonymize --strict: finished, but not every row was anonymized; --max-failure-rate: stopped for that
    )
    BEYOND_LIMIT = (
        8  # evaluate --fail-under, --fail-over: a figure lies beyond a limit given; attack --fail-on-win: an attack won
    )
    TRY_AGAIN = (
        75  # the machine failed, or another process holds the output: the same command may be run again as it is
    )
    INTERRUPTED = 130  # Ctrl-C; typer ends the process with it (128 + SIGINT)


_CODE_OF_ERROR: tuple[tuple[type[BaseException], ExitCode], ...] = (  # first match wins: subclasses before their bases
    (WrongKekError, ExitCode.WRONG_KEY_OR_TAMPERED),
    (TamperedError, ExitCode.WRONG_KEY_OR_TAMPERED),
    (AuditError, ExitCode.WRONG_KEY_OR_TAMPERED),
    (InvalidRecordError, ExitCode.WRONG_KEY_OR_TAMPERED),
    (StorageError, ExitCode.INPUT),
    (KekError, ExitCode.INPUT),
    (ShardExistsError, ExitCode.INPUT),
    (KeystoreError, ExitCode.REFUSED),
    (WrongKeyError, ExitCode.WRONG_KEY_OR_TAMPERED),
    (SidecarError, ExitCode.WRONG_KEY_OR_TAMPERED),
    (ConvergenceError, ExitCode.NOT_CONVERGED),
    (NotReversibleError, ExitCode.NOT_CONVERGED),
    (ConfigError, ExitCode.USAGE),
    (PseudonymsRefusedError, ExitCode.REFUSED),
    (MachineError, ExitCode.TRY_AGAIN),
    (LeaseError, ExitCode.TRY_AGAIN),
    (KeysWaitingError, ExitCode.TRY_AGAIN),
    (TooManyQuarantinedError, ExitCode.QUARANTINED),
    (DefectError, ExitCode.UNEXPECTED),
    (KeyanonError, ExitCode.INPUT),
    (OSError, ExitCode.INPUT),
)


def exit_code_of(error: BaseException) -> ExitCode:
    """The exit code that tells the shell about `error`; `UNEXPECTED` for errors nobody raised on purpose."""
    return next((code for kind, code in _CODE_OF_ERROR if isinstance(error, kind)), ExitCode.UNEXPECTED)
