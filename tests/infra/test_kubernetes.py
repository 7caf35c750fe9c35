"""The manifests against the schemas of Kubernetes and KubeRay, and what they promise: no root, no overlap, no way out."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT7

from jobs.exit_codes import ExitCode
from keystore.service.endpoints import ENDPOINTS
from tests.infra.manifests import FILES, FOLDER, End, connects, containers, manifests, named, pods

VERSIONS = ("1.30", "1.37")  # Kubernetes, the oldest with all that is used and the newest whose schemas are at hand
DAY = 24 * 3600
EVERY_POD = [(one["metadata"]["name"], pod) for one in manifests() for pod in pods(one)]


def _problems(manifest: dict[str, Any], version: str) -> list[str]:
    if manifest["apiVersion"] != "ray.io/v1":
        try:
            kubernetes_validate.validate(manifest, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            return [error.message]
        return []
    schemas = Path(kubernetes_validate.__file__).parent / f"kubernetes-json-schema/v{version}.0-local-strict"
    definitions = Resource.from_contents(
        json.loads((schemas / "_definitions.json").read_text()), default_specification=DRAFT7
    )
    schema = yaml.safe_load((Path(__file__).parent / "kuberay.schema.yaml").read_text())
    validator = jsonschema.Draft7Validator(schema, registry=Registry().with_resource("kubernetes", definitions))
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(manifest)]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("file", FILES)
def test_manifests_fit_their_schemas(file: str, version: str) -> None:
    assert manifests(file)
    assert [
        (one["metadata"]["name"], _problems(one, version)) for one in manifests(file) if _problems(one, version)
    ] == []


def test_a_field_of_the_wrong_name_or_type_is_noticed() -> None:
    """At each depth of a RayJob, and in a CronJob."""
    job, night = named("RayJob", "keyanon-anonymize"), named("CronJob", "keyanon-anonymize")
    for path, value in (
        (("spec", "entryPoint"), "keyanon"),
        (("spec", "backoffLimit"), "3"),
        (("spec", "rayClusterSpec", "authOptions", "mode"), "on"),
        (("spec", "rayClusterSpec", "headGroupSpec", "rayStartParams", "num-cpus"), 0),
        (("spec", "rayClusterSpec", "workerGroupSpecs", 0, "minReplica"), 1),
        (("spec", "rayClusterSpec", "workerGroupSpecs", 0, "template", "spec", "containers", 0, "envfrom"), []),
    ):
        broken = json.loads(json.dumps(job))
        place = broken
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = value
        assert len(_problems(broken, VERSIONS[0])) == 1, path
    assert _problems({**night, "spec": {**night["spec"], "concurrencypolicy": "Forbid"}}, VERSIONS[0])


def test_kustomize_puts_together_what_stands() -> None:
    listed = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
    assert set(listed["resources"]) | {
        "anonymize.yaml",
        "encrypted-storage.yaml",
        "keystore-init.yaml",
        "one-machine.yaml",
        "recover.yaml",
    } == set(FILES)
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl comes in no Python package; the list of files alone was checked")
    done = subprocess.run(["kubectl", "kustomize", FOLDER], capture_output=True, text=True, check=True)
    built = {(one["kind"], one["metadata"]["name"]): one for one in yaml.safe_load_all(done.stdout)}
    embedded = built["ConfigMap", "keyanon-anonymize-job"]["data"]["anonymize.yaml"]
    assert yaml.safe_load(embedded) == named("RayJob", "keyanon-anonymize")


@pytest.mark.parametrize(("name", "pod"), EVERY_POD, ids=[name for name, _ in EVERY_POD])
def test_a_pod_is_nobody_and_changes_nothing_but_its_volumes(name: str, pod: dict[str, Any]) -> None:
    spec = pod["spec"]
    security = spec["securityContext"]
    assert security["runAsNonRoot"] and security["runAsUser"] >= 10_000 and security["runAsGroup"] >= 10_000
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["serviceAccountName"].startswith("keyanon-")
    assert spec["automountServiceAccountToken"] is (spec["serviceAccountName"] == "keyanon-scheduler")
    assert not any(spec.get(host) for host in ("hostNetwork", "hostPID", "hostIPC"))
    assert not any("hostPath" in volume for volume in spec.get("volumes", []))
    for container in containers(pod):
        own = container["securityContext"]
        assert own["readOnlyRootFilesystem"] and own["allowPrivilegeEscalation"] is False
        assert own["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["requests"]["cpu"] and container["resources"]["limits"]["memory"]
        text = json.dumps([container.get("env", []), container.get("args", []), container.get("command", [])])
        assert "SECRET" not in text.upper() and "PASSWORD" not in text.upper()


@pytest.mark.parametrize(("name", "pod"), EVERY_POD, ids=[name for name, _ in EVERY_POD])
def test_what_a_pod_writes_stays_in_memory_or_on_an_encrypted_volume(name: str, pod: dict[str, Any]) -> None:
    for volume in pod["spec"].get("volumes", []):
        if "emptyDir" in volume:
            assert volume["emptyDir"]["medium"] == "Memory" and volume["emptyDir"]["sizeLimit"]
        elif "persistentVolumeClaim" in volume:
            claim = named("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"])
            storage = named("StorageClass", claim["spec"]["storageClassName"])
            assert storage["parameters"]["encrypted"] == "true"
        elif "secret" in volume:  # the group's, by fsGroup, and no others'
            assert volume["secret"]["defaultMode"] == 0o440
        else:
            assert "configMap" in volume
    mounted = {mount["name"] for container in containers(pod) for mount in container.get("volumeMounts", [])}
    assert mounted == {volume["name"] for volume in pod["spec"].get("volumes", [])}


def test_ray_spills_into_memory_and_memory_suffices() -> None:
    """Store, spilled blocks and /tmp count against the limit of a container and leave most of it to processes."""
    cluster = named("RayJob", "keyanon-anonymize")["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        (container,) = group["template"]["spec"]["containers"]
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        sizes = {
            one["name"]: _bytes(one["emptyDir"]["sizeLimit"])
            for one in group["template"]["spec"]["volumes"]
            if "emptyDir" in one
        }
        assert mounts[group["rayStartParams"]["object-spilling-directory"]] == "spill"
        held = int(group["rayStartParams"]["object-store-memory"]) + sizes["spill"] + sizes["tmp"]
        assert held < _bytes(container["resources"]["limits"]["memory"]) / 2


def _bytes(quantity: str) -> int:
    return int(quantity[:-2]) * {"Mi": 2**20, "Gi": 2**30}[quantity[-2:]]


def test_no_two_runs_overlap_and_restarts_are_bounded() -> None:
    run = named("RayJob", "keyanon-anonymize")["spec"]
    for name in ("keyanon-anonymize", "keyanon-one-machine"):
        night = named("CronJob", name)["spec"]
        minute, hour, *rest = night["schedule"].split()
        assert minute.isdigit() and hour.isdigit() and rest == ["*", "*", "*"]  # once a day
        job = night["jobTemplate"]["spec"]
        assert night["concurrencyPolicy"] == "Forbid" and night["suspend"]
        assert 0 < job["backoffLimit"] <= 6 and job["activeDeadlineSeconds"] < DAY
    job = named("CronJob", "keyanon-anonymize")["spec"]["jobTemplate"]["spec"]
    assert run["backoffLimit"] == 0 and run["activeDeadlineSeconds"] < job["activeDeadlineSeconds"]
    remove, make, *_ = (container["args"] for container in containers(job["template"]))
    assert remove[:3] == ["delete", "rayjob", "keyanon-anonymize"] and "--cascade=foreground" in remove
    assert make[0] == "create"  # not apply: a name that is taken is an error


def test_a_grant_is_not_tried_twice_and_the_keystores_directory_is_on_one_machine() -> None:
    assert named("Job", "keyanon-recover")["spec"]["backoffLimit"] == 0
    assert named("PersistentVolumeClaim", "keyanon-keystore")["spec"]["accessModes"] == ["ReadWriteOnce"]
    for name in ("keyanon-ingest", "keyanon-serve"):
        spec = named("Deployment", name)["spec"]
        assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})
    (beside,) = spec["template"]["spec"]["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert beside["topologyKey"] == "kubernetes.io/hostname"
    assert beside["labelSelector"] == named("Deployment", "keyanon-ingest")["spec"]["selector"]


def test_the_service_is_the_pod_that_serves_and_what_the_policies_and_recovery_call() -> None:
    service, deployment = named("Service", "keyanon-keystore"), named("Deployment", "keyanon-serve")
    pod = deployment["spec"]["template"]
    assert service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"]
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    for other in (named("Job", "keyanon-keystore-init"), named("Deployment", "keyanon-ingest")):
        assert not service["spec"]["selector"].items() <= other["spec"]["template"]["metadata"]["labels"].items()
    (container,) = containers(pod)
    (port,) = container["ports"]
    (outside,) = service["spec"]["ports"]
    args = container["args"]
    assert args[args.index("--port") + 1] == str(port["containerPort"]) == str(outside["port"])
    assert connects(RECOVER, End("keyanon-keystore", pod["metadata"]["labels"]), port["containerPort"])
    for probe in ("livenessProbe", "readinessProbe"):
        asked = container[probe]["httpGet"]
        assert (asked["scheme"], asked["port"]) == ("HTTPS", port["name"]) == ("HTTPS", outside["targetPort"])
        assert not ENDPOINTS[asked["path"].removeprefix("/v1/")].roles
    name = f"{service['metadata']['name']}.{service['metadata']['namespace']}.svc"
    settings = named("ConfigMap", "keyanon-settings", "keyanon-recover")["data"]
    assert settings["KEYANON_KEYSTORE"] == f"https://{name}:{outside['port']}"


def test_the_exit_code_that_asks_for_another_try_gets_one() -> None:
    job = named("CronJob", "keyanon-one-machine")["spec"]["jobTemplate"]["spec"]
    (final,) = (rule["onExitCodes"] for rule in job["podFailurePolicy"]["rules"] if rule["action"] == "FailJob")
    assert final["operator"] == "NotIn" and ExitCode.TRY_AGAIN in final["values"]
    assert not {ExitCode.USAGE, ExitCode.INPUT, ExitCode.REFUSED, ExitCode.WRONG_KEY_OR_TAMPERED} & set(final["values"])


def test_each_trust_domain_has_a_namespace_of_its_own() -> None:
    """Who may make pods in a namespace can use all its accounts: the scheduler must find none but the anonymizing one there."""
    accounts = {
        one["metadata"]["name"]: one["metadata"]["namespace"] for one in manifests() if one["kind"] == "ServiceAccount"
    }
    assert len({accounts[f"keyanon-{part}"] for part in ("anonymize", "ingest", "recover")}) == 3
    assert {name for name, place in accounts.items() if place == accounts["keyanon-scheduler"]} == {
        "keyanon-scheduler",
        "keyanon-anonymize",
    }
    (role,) = (one for one in manifests() if one["kind"] == "Role")
    assert role["rules"] == [
        {"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["create", "delete", "get", "list", "watch"]}
    ]


ANONYMIZE = End("keyanon-anonymize", {"keyanon.io/part": "anonymize"})
SUBMIT = End("keyanon-anonymize", {"keyanon.io/part": "submit"})
SCHEDULE = End("keyanon-anonymize", {"keyanon.io/part": "schedule"})
STRANGER = End("keyanon-anonymize", {})
INGEST = End("keyanon-keystore", {"keyanon.io/part": "ingest"})
KEYSTORE = End("keyanon-keystore", {"keyanon.io/part": "keystore"})
RECOVER = End("keyanon-recover", {"keyanon.io/part": "recover"})
PROMETHEUS = End("monitoring", {"app.kubernetes.io/name": "prometheus"})
OPERATOR = End("kuberay-operator", {"app.kubernetes.io/name": "kuberay-operator"})
NAMES = End("kube-system", {"k8s-app": "kube-dns"})
ELSEWHERE = End("default", {"keyanon.io/part": "anonymize"})
S3, KMS, CREDENTIALS, API_SERVER, INTERNET = (
    End(address=one) for one in ("10.0.250.7", "10.0.251.7", "169.254.170.23", "10.0.254.3", "203.0.113.9")
)
METADATA = End(address="169.254.169.254")  # the node's own credentials
ALLOWED = [
    (ANONYMIZE, ANONYMIZE, 6379), (ANONYMIZE, S3, 443), (ANONYMIZE, CREDENTIALS, 80), (ANONYMIZE, NAMES, 53),
    (SUBMIT, ANONYMIZE, 8265), (OPERATOR, ANONYMIZE, 8265), (PROMETHEUS, ANONYMIZE, 8080),
    (SCHEDULE, API_SERVER, 443),
    (INGEST, S3, 443), (INGEST, KMS, 443), (KEYSTORE, KMS, 443), (INGEST, KEYSTORE, 8443),
    (RECOVER, KEYSTORE, 8443), (RECOVER, S3, 443),
]  # fmt: skip
FORBIDDEN = [
    (ANONYMIZE, KEYSTORE, 8443), (ANONYMIZE, INGEST, 8443), (ANONYMIZE, RECOVER, 443), (ANONYMIZE, INTERNET, 443),
    (ANONYMIZE, API_SERVER, 443), (ANONYMIZE, METADATA, 80), (ANONYMIZE, S3, 80), (ANONYMIZE, KMS, 443),
    (RECOVER, KMS, 443), (ELSEWHERE, ANONYMIZE, 6379),
    (SUBMIT, S3, 443), (SUBMIT, ANONYMIZE, 6379), (OPERATOR, ANONYMIZE, 6379), (PROMETHEUS, ANONYMIZE, 8265),
    (SCHEDULE, S3, 443), (SCHEDULE, ANONYMIZE, 8265),
    (STRANGER, S3, 443), (STRANGER, ANONYMIZE, 6379), (STRANGER, INTERNET, 443),
    (INGEST, INTERNET, 443), (INGEST, ANONYMIZE, 6379), (ELSEWHERE, KEYSTORE, 8443), (RECOVER, INGEST, 8443),
    (RECOVER, INTERNET, 443), (RECOVER, ANONYMIZE, 6379), (KEYSTORE, ANONYMIZE, 6379),
    (KEYSTORE, S3, 443), (KEYSTORE, INTERNET, 443),
]  # fmt: skip


@pytest.mark.parametrize(("source", "target", "port"), ALLOWED)
def test_what_has_to_be_reached_is_reached(source: End, target: End, port: int) -> None:
    assert connects(source, target, port)


@pytest.mark.parametrize(("source", "target", "port"), FORBIDDEN)
def test_nothing_else_is(source: End, target: End, port: int) -> None:
    assert not connects(source, target, port)


def test_labels_of_the_policies_are_those_of_the_pods() -> None:
    """A policy that selects nobody protects nobody."""
    labels = {pod["metadata"]["labels"]["keyanon.io/part"] for _, pod in EVERY_POD}
    selected = {
        one["spec"]["podSelector"].get("matchLabels", {}).get("keyanon.io/part") for one in manifests("network.yaml")
    }
    assert labels <= selected
