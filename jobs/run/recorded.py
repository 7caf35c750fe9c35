"""Runs that go on by what their outputs recorded of them: the settings, and what they are at."""

from collections.abc import Mapping
from typing import Any, Final

from jobs.config import NEUTRAL_SETTINGS, AnonymizeConfig
from jobs.errors import PublishError
from jobs.output.manifest import Manifest, code_version, read_existing
from jobs.storage.opening import open_store
from jobs.storage.place import Place

# What may be given anew: where and how fast the run goes on, and how far.
RESUME_SETTINGS: Final = NEUTRAL_SETTINGS - {"output"}
_OUTSIDE: Final = {"ingest_key", "inbox", "token_file"}


def with_changes(recorded: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Recorded settings with some changed. Another keystore or inbox takes the place of all that said where the first was."""
    moved = {"keystore", "kek"} if _OUTSIDE & changes.keys() else _OUTSIDE if "keystore" in changes else set[str]()
    if "inbox" in changes:
        moved |= {"token_file"}
    return {**{name: value for name, value in recorded.items() if name not in moved}, **changes}


def recorded_config(manifest: Manifest, output: Place, changes: Mapping[str, Any]) -> AnonymizeConfig:
    """The settings of the run of an output, where it lies now, with some changed.

    Raises:
        PublishError: the run has settings that this version of keyanon does not know, and it was not accepted. ConfigError: those
        that were changed can not be used.
    """
    unknown = manifest.config.keys() - AnonymizeConfig.model_fields.keys()
    if unknown and changes.get("accept_version") != code_version():
        raise PublishError(
            f"the run of {output} has settings that this version of keyanon does not know ({', '.join(sorted(unknown))}); go on "
            f"with the version that it was begun with, accept this one by --accept-version {code_version()}, or give an empty "
            "output"
        )
    known = {name: value for name, value in manifest.config.items() if name not in unknown}
    return AnonymizeConfig.load(None, with_changes(known, {**changes, "output": output}))


def manifest_of(output: Place, endpoint_url: str | None) -> Manifest:
    """The manifest of a run that has begun. Raises PublishError, ConfigError, MachineError."""
    store = open_store(output, endpoint_url)
    manifest = read_existing(store)
    if manifest is None:
        raise PublishError(f"{store} is not the output of a keyanon run; give the one of `keyanon anonymize`")
    return manifest
