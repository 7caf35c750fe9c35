"""What the workers loaded stands in the manifest, and what hinders that hides nothing of why a run failed."""

from pathlib import Path
from typing import Any, cast

import pytest

from jobs.errors import LeaseError, MachineError
from jobs.output.manifest import Manifest, read_existing
from jobs.run.facts import Facts
from jobs.run.progress import Monitor
from jobs.storage.local import LocalStore


class Told:
    """A monitor that workers have told what they loaded."""

    def facts(self) -> list[dict[str, Any]]:
        return [{"prior": {"digest": "1"}}]


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    store = LocalStore(tmp_path)
    Manifest("run-1", None, "d", "", "", "files", 1, {}, "then").write(store)
    return store


def facts_of(store: LocalStore) -> Facts:
    manifest = read_existing(store)
    assert manifest is not None
    return Facts(manifest, store, cast("Monitor", Told()))


def digests(store: LocalStore) -> list[str]:
    manifest = read_existing(store)
    assert manifest is not None
    return [fact["prior"]["digest"] for fact in manifest.facts]


def test_they_are_remembered_once_and_when_a_run_fails(store: LocalStore) -> None:
    with facts_of(store) as facts:
        pass
    assert digests(store) == []
    with pytest.raises(MachineError, match="first"), facts_of(store):
        raise MachineError("first")
    with facts_of(store) as facts:
        facts.remember()
        facts.remember()
    assert digests(store) == ["1"]


def test_a_manifest_that_can_not_be_written_hides_no_failure(store: LocalStore) -> None:
    facts = facts_of(store)
    overtaken = read_existing(store)
    assert overtaken is not None
    overtaken.attempts += 1
    overtaken.write(store)
    with pytest.raises(MachineError, match="first"), facts:
        raise MachineError("first")
    with pytest.raises(LeaseError), facts:
        facts.remember()
