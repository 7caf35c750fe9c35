"""What ends an attempt that can not write its output: what may pass, so that the same command may be run again by a scheduler, or
what people have to mend."""

from jobs.errors import MachineError, PublishError
from jobs.faults import FaultKind, kind_of_writing


def unwritable(output: object, error: Exception) -> MachineError | PublishError:
    """The error to raise, from one that was met. output: what it is called in the message."""
    said = (error.strerror if isinstance(error, OSError) else None) or error
    if kind_of_writing(error) is FaultKind.MACHINE:
        return MachineError(
            f"output {output} could not be written ({said}); make room, or see to the disk and the server, then run the same "
            "command again: it goes on"
        )
    return PublishError(
        f"output {output} can not be written ({said}); mend the place or its permissions, then run the same command again"
    )
