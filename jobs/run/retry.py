"""The quarantined rows of a complete run, done again alone: `keyanon quarantine retry`."""

import time
from collections.abc import Mapping
from typing import Any, Final

from jobs.config import NEUTRAL_SETTINGS, AnonymizeConfig
from jobs.errors import ConfigError, PublishError
from jobs.output.commit import quarantined_rows
from jobs.output.manifest import COMPLETE, Manifest, read_existing
from jobs.run.anonymize import Attempt, RunReport, holding, layout_of, open_keystore, run_attempt
from jobs.run.progress import ProgressCallback
from jobs.sources.source import open_source
from jobs.storage.opening import open_store
from jobs.storage.place import Place
from jobs.storage.store import Store
from keystore.service import Keystore

# What may be given anew: where and how fast a retry works, and how many keys are tried.
RETRY_SETTINGS: Final = NEUTRAL_SETTINGS - {"output"} | {"max_attempts"}


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
    config = _retry_config(_complete_run(open_store(output, changed.get("endpoint_url"))), output, changed)
    source = open_source(config, config.given())
    layout = layout_of(config, source)
    with holding(layout) as lease:
        manifest = _complete_run(layout.store)
        manifest.check_same_input(layout.store, source)
        if reason is not None and manifest.unfinished_retry is None and not quarantined_rows(layout, reason):
            raise ConfigError(
                f"no row of {output} is quarantined for {reason!r}; `keyanon quarantine list {output}` shows the reasons"
            )
        with open_keystore(config, Keystore.open) as keystore:
            manifest.check_keystore(layout.store, keystore)
            number = manifest.begin_retry(reason, {name: config.to_json()[name] for name in sorted(changed)})
            manifest.write(layout.store)
            finished = frozenset(range(source.total)) - quarantined_rows(layout, reason, before_retry=number)
            return run_attempt(
                Attempt(config, source, layout, keystore, manifest, lease, finished, number), progress, started
            )


def _complete_run(output: Store) -> Manifest:
    """The manifest of a run whose rows can be retried. Raises PublishError."""
    manifest = read_existing(output)
    if manifest is None:
        raise PublishError(f"{output} is not the output of a keyanon run; give the one of `keyanon anonymize`")
    if manifest.state != COMPLETE and manifest.unfinished_retry is None:
        raise PublishError(f"the run of {output} is not complete; run its `keyanon anonymize` again first")
    return manifest


def _retry_config(manifest: Manifest, output: Place, changes: Mapping[str, Any]) -> AnonymizeConfig:
    """The run's settings with some changed. Raises ConfigError."""
    refused = sorted(set(changes) - RETRY_SETTINGS)
    if refused:
        raise ConfigError(
            f"a retry has the settings of its run, and {', '.join(refused)} can not change; anonymize into another output"
        )
    return AnonymizeConfig.load(None, {**manifest.config, **changes, "output": output})
