"""The errors of the jobs: each says what happened, to which file or setting, and what to do next."""

from keyanon_core.errors import KeyanonError


class JobError(KeyanonError):
    """Base of the errors of a run; Ray carries them from workers to the driver by their message alone."""


class MachineError(JobError):
    """Memory, a device, a disk, the network or a process failed, again and again: no row is to blame, and the same command
    may be run again."""


class UnansweredError(MachineError):
    """Who keeps a run's pseudonyms did not answer, however often asked: another process would wait as long for the same."""


class PseudonymsRefusedError(JobError):
    """Who keeps a run's pseudonyms refuses them: no row is to blame, and to ask again would not mend it."""


class DefectError(JobError):
    """A worker met an error that nobody raised on purpose and that no row is to blame for."""


class ConfigError(JobError):
    """A setting is unknown, missing, or has a value no run can use."""


class SourceError(JobError):
    """The input as a whole can not be used. A single bad picture is a quarantined row instead."""


class PublishError(JobError):
    """The output or the inbox of the keystore can not be written, or holds something that is not this run's."""


class LeaseError(JobError):
    """Another process is writing this output, or took it over."""


class TooManyQuarantinedError(JobError):
    """More rows were kept out than the run was told to stand."""


class CommitError(JobError):
    """What was written does not account for every input row exactly once, and to go on would not mend it."""


class KeysWaitingError(JobError):
    """Rows are published whose keys wait to be taken in by a keystore that this run can not open; nothing is wrong."""
