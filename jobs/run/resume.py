"""A run that goes on, told of by its output alone: `keyanon resume`."""

from collections.abc import Mapping
from typing import Any

from jobs.run.anonymize import run_anonymize
from jobs.run.progress import ProgressCallback
from jobs.run.recorded import manifest_of, recorded_config, with_changes
from jobs.run.report import RunReport
from jobs.run.retry import retry_quarantined
from jobs.storage.place import Place


def resume_run(
    output: Place, changes: Mapping[str, Any] | None = None, progress: ProgressCallback | None = None
) -> RunReport:
    """Go on with the run of an output, or with its retry that was stopped, by the settings that it recorded.

    changes: settings of `RESUME_SETTINGS`, None for those that stay; during a retry of `RETRY_SETTINGS`. A limit holds for one
    attempt and is not taken from the record.

    Raises:
        PublishError: there is no run, or one of another version of keyanon. Else as `run_anonymize` and `retry_quarantined`.
    """
    changed = {name: value for name, value in (changes or {}).items() if value is not None}
    manifest = manifest_of(output, changed.get("endpoint_url"))
    if (retry := manifest.unfinished_retry) is not None:
        return retry_quarantined(output, retry["reason"], with_changes(retry["settings"], changed), progress)
    return run_anonymize(recorded_config(manifest, output, {"limit": None, **changed}), progress)
