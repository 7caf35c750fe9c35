"""The Kubernetes manifests as data, and what Kubernetes' network policies say of them."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "infra/kubernetes"
FILES = sorted(path.name for path in FOLDER.glob("*.yaml") if path.name != "kustomization.yaml")
Manifest = dict[str, Any]


@cache
def manifests(*names: str) -> list[Manifest]:
    """All documents of these files, or of all."""
    return [one for name in names or FILES for one in yaml.safe_load_all((FOLDER / name).read_text()) if one]


def named(kind: str, name: str, namespace: str | None = None) -> Manifest:
    """The only manifest of a kind and name."""
    (found,) = (
        one
        for one in manifests()
        if (one["kind"], one["metadata"]["name"]) == (kind, name)
        and namespace in (None, one["metadata"].get("namespace"))
    )
    return found


def pods(manifest: Any) -> Iterator[Manifest]:
    """Every pod template in a manifest: what has a pod's `spec` with containers."""
    if isinstance(manifest, dict):
        if isinstance(manifest.get("spec"), dict) and "containers" in manifest["spec"]:
            yield manifest
        for value in manifest.values():
            yield from pods(value)
    elif isinstance(manifest, list):
        for value in manifest:
            yield from pods(value)


def containers(pod: Manifest) -> list[Manifest]:
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


@dataclass(frozen=True)
class End:
    """One end of a connection: a pod by its namespace and labels, or an address."""

    namespace: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    address: str = ""


def connects(source: End, target: End, port: int, protocol: str = "TCP") -> bool:
    """Whether all network policies together let a connection through, by the rules of networking.k8s.io/v1: a pod that some
    policy selects for a direction may do what one of them allows, and nothing else.
    """
    return _lets(source, target, "Egress", port, protocol) and _lets(target, source, "Ingress", port, protocol)


def _lets(own: End, other: End, direction: str, port: int, protocol: str) -> bool:
    if own.address:
        return True
    mine = [
        one["spec"]
        for one in manifests("network.yaml")
        if one["metadata"]["namespace"] == own.namespace
        and direction in one["spec"]["policyTypes"]
        and _matches(one["spec"]["podSelector"], own.labels)
    ]
    rules = [rule for spec in mine for rule in spec.get(direction.lower(), [])]
    side = {"Egress": "to", "Ingress": "from"}[direction]
    return not mine or any(
        (not rule.get("ports") or {"port": port, "protocol": protocol} in rule["ports"])
        and (side not in rule or any(_is(peer, other, own.namespace) for peer in rule[side]))
        for rule in rules
    )


def _is(peer: Manifest, end: End, namespace: str) -> bool:
    if "ipBlock" in peer:
        return bool(end.address) and ip_address(end.address) in ip_network(peer["ipBlock"]["cidr"])
    if end.address:
        return False
    if "namespaceSelector" in peer:
        if not _matches(peer["namespaceSelector"], {"kubernetes.io/metadata.name": end.namespace}):
            return False
    elif end.namespace != namespace:
        return False
    return _matches(peer.get("podSelector", {}), end.labels)


def _matches(selector: Manifest, labels: dict[str, str]) -> bool:
    assert set(selector) <= {"matchLabels"}, "only labels are used here"
    return selector.get("matchLabels", {}).items() <= labels.items()
