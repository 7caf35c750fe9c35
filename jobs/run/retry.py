"""The quarantined rows of a complete run, done again alone: `keyanon quarantine retry`."""

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from jobs.config import NEUTRAL_SETTINGS, AnonymizeConfig
from jobs.errors import ConfigError
from jobs.output.commit import quarantined_rows
from jobs.output.manifest import Manifest, read_complete
from jobs.output.row_sets import RowSet
from jobs.run.anonymize import Attempt, fitting, run_attempt
from jobs.run.places import check_named, holding, layout_of, numbered, open_keys
from jobs.run.progress import ProgressCallback
from jobs.run.recorded import recorded_config
from jobs.run.report import RunReport
from jobs.sources.source import open_source
from jobs.storage.opening import open_store
from jobs.storage.place import Place

# What may be given anew: where and how fast a retry works, and how many keys are tried.
RETRY_SETTINGS: Final = NEUTRAL_SETTINGS - {"output", "limit", "max_failure_rate"} | {"max_attempts"}


def retry_quarantined(
    output: Place,
    reason: str | None = None,
    changes: Mapping[str, Any] | None = None,
    progress: ProgressCallback | None = None,
) -> RunReport:
    """Do the quarantined rows of a complete run again, or go on where the same retry was stopped; no other row is touched.

    Args:
        output: the run's. reason: code of the rows to do, None for all. changes: settings of `RETRY_SETTINGS`; all others
        are the run's own, from its manifest.

    Raises:
        ConfigError: a setting is not one that may change, or no row is quarantined for that reason. Else as `run_anonymize`.
    """
    started = time.monotonic()
    changed = {name: value for name, value in (changes or {}).items() if value is not None}
    config = _retry_config(
        read_complete(open_store(output, changed.get("endpoint_url")), retrying=True), output, changed
    )
    source = open_source(config, config.given())
    config = fitting(config, source)
    layout = layout_of(config, source)
    check_named(layout, source)
    with holding(layout) as lease:
        manifest = read_complete(layout.store, retrying=True)
        manifest.check_version(layout.store, config.accept_version)
        manifest.check_same_input(layout.store, source)
        rows = numbered(config, layout, source)
        if rows.unversioned or len(rows.done) < source.total:
            manifest.check_same_listing(layout.store, source)
        manifest.goes_on_over(source, len(rows.gone))
        if reason is not None and manifest.unfinished_retry is None and not quarantined_rows(layout, reason):
            raise ConfigError(
                f"no row of {output} is quarantined for {reason!r}; `keyanon quarantine list {output}` shows the reasons"
            )
        with open_keys(config, create=False) as keys:
            manifest.check_keys(layout.store, keys)
            manifest.taken_over(recorded_config(manifest, output, {"accept_version": config.accept_version}))
            number = manifest.begin_retry(reason, {name: config.to_json()[name] for name in sorted(changed)})
            manifest.write(layout.store)
            again = quarantined_rows(layout, reason, before_retry=number)
            rows = replace(rows, done=RowSet.of(~again.has(rows.numbers)))
            return run_attempt(Attempt(config, source, layout, keys, manifest, lease, rows, number), progress, started)


def _retry_config(manifest: Manifest, output: Place, changes: Mapping[str, Any]) -> AnonymizeConfig:
    """The run's settings with some changed. Raises ConfigError."""
    refused = sorted(set(changes) - RETRY_SETTINGS)
    if refused:
        raise ConfigError(
            f"a retry has the settings of its run, and {', '.join(refused)} can not change; anonymize into another output"
        )
    of_all_rows = {"limit": None, "max_failure_rate": None}
    return recorded_config(manifest, output, {**of_all_rows, **changes})
