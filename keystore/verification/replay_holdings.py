"""What the log says is held: its entries on shards, records, epoch keys, shred keys and erasures."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from keystore.vault.epochs import LOGGED_STEPS, EpochState

KINDS = frozenset(
    {"epochs", "erase", "ingest", "ingest-key", "inventory", "pseudonyms", "reconcile", "retire", "rotate", "run"}
)
"""Types of entry that say what is held."""


@dataclass(frozen=True)
class KeysAccount:
    """What one entry says of the shred keys, or the pseudonyms' secrets, that it put under one epoch."""

    keys: int
    account: str


@dataclass(frozen=True)
class LoggedEpoch:
    """An epoch key as the log tells it."""

    purpose: str
    state: str
    digest: str


@dataclass(frozen=True)
class Erasure:
    """What one entry says it erased: the line of the erasure list, and the account of what went."""

    line: str
    account: str


@dataclass
class LoggedHoldings:
    """What must be there, and what must be gone."""

    records: dict[int, str] = field(default_factory=dict)  # entry -> account of the records that it stored
    epochs: dict[str, LoggedEpoch] = field(default_factory=dict)
    keys: dict[tuple[int, str], KeysAccount] = field(default_factory=dict)  # (entry, epoch) -> of what it holds
    refused: dict[int, str] = field(default_factory=dict)  # entry -> account of what came erased, and was not stored
    erasures: dict[int, Erasure] = field(default_factory=dict)  # entry -> what it erased
    shards: dict[tuple[str, str, str], int] = field(default_factory=dict)  # (run, shard, sha256) -> records taken in
    runs: dict[str, str] = field(default_factory=dict)  # run -> digest of its data set
    problems: list[str] = field(default_factory=list)


def apply_holding(state: LoggedHoldings, leaf: dict[str, Any]) -> None:
    """Take one entry of any type into account. Raises as `apply_decision`."""
    kind = leaf["type"]
    _apply_epochs(state, leaf)
    if kind == "inventory":
        state.records[leaf["seq"]] = leaf["records_account"]
        if leaf["unopened"] or leaf["missing"]:
            lost = f"{leaf['unopened']} records that did not open and {leaf['missing']} that were missing"
            state.problems.append(f"entry {leaf['seq']}, of the upgrade of this keystore, counts {lost}")
    elif kind == "run":
        state.runs[leaf["run"]] = leaf["digest"]
    elif kind == "erase":
        state.erasures[leaf["seq"]] = Erasure(leaf["erasure"], leaf["account"])
    elif kind == "epochs" and leaf["unopened"]:
        state.problems.append(
            f"entry {leaf['seq']}, of the upgrade of this keystore, counts {leaf['unopened']} keys that did not open"
        )
    elif kind == "ingest":
        shard = (leaf["run"], leaf["shard"], leaf["shard_sha256"])
        state.shards[shard] = state.shards.get(shard, 0) + leaf["ingested"]
        if "records_account" in leaf:  # else an entry from before accounts were kept; an inventory covers it
            state.records[leaf["seq"]] = leaf["records_account"]
        if "refused_account" in leaf:
            state.refused[leaf["seq"]] = leaf["refused_account"]


def _apply_epochs(state: LoggedHoldings, leaf: dict[str, Any]) -> None:
    ended = 0
    for ident, said in sorted(leaf.get("epochs", {}).items()):
        before = state.epochs.get(ident)
        after = EpochState(said["state"])
        if after not in LOGGED_STEPS[None if before is None else EpochState(before.state)] or (
            before is not None and before.purpose != said["purpose"]
        ):
            state.problems.append(f"entry {leaf['seq']} takes epoch {ident} a way that no key goes")
        state.epochs[ident] = LoggedEpoch(said["purpose"], said["state"], said["digest"])
        if after is EpochState.DESTROYED:
            of_it = [one for one in state.keys if one[1] == ident]
            ended += sum(state.keys.pop(one).keys for one in of_it)
    stored = {
        ident: KeysAccount(said["keys"], said["account"])
        for keys in ("shred_keys", "pseudonyms")
        for ident, said in leaf.get(keys, {}).items()
    }
    for ident, said in stored.items():
        if ident not in state.epochs or state.epochs[ident].state == EpochState.DESTROYED.value:
            state.problems.append(f"entry {leaf['seq']} puts keys under epoch {ident}, which is not there any more")
        state.keys[leaf["seq"], ident] = said
    if (
        leaf["type"] == "erase"
        and "epochs" in leaf
        and ended != leaf["keys"] + sum(one.keys for one in stored.values())
    ):
        state.problems.append(f"entry {leaf['seq']} erases {leaf['keys']} key(s), and others did not come through it")
