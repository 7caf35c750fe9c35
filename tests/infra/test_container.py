"""The container image's definition: what is checked without a container engine."""

import os
import re
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from dockerfile_parse import DockerfileParser

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "infra/container"
DOCKERFILE = FOLDER / "Dockerfile"
TARGETS = ("cpu", "cuda")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def steps() -> list[dict[str, Any]]:
    """The instructions in order: `instruction` and `value` of each."""
    structure: list[dict[str, Any]] = DockerfileParser(fileobj=DOCKERFILE.open("rb")).structure
    return [step for step in structure if step["instruction"] != "COMMENT"]


def _stage(steps: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """The instructions of one stage and of the stages it stands on."""
    for first, step in enumerate(steps):
        found = re.fullmatch(r"(\S+) AS (\S+)", step["value"]) if step["instruction"] == "FROM" else None
        if found and found[2] == name:
            rest = [index for index, later in enumerate(steps) if index > first and later["instruction"] == "FROM"]
            own = steps[first : rest[0] if rest else None]
            return own if found[1].startswith("$") else _stage(steps, found[1]) + own
    raise AssertionError(f"no stage {name}")


def _ignored(path: str) -> bool:
    """What `Dockerfile.dockerignore` says of a path: its last matching line wins, and a folder's line holds for what is in it."""
    ignored = False
    for line in (FOLDER / "Dockerfile.dockerignore").read_text().splitlines():
        if line and not line.startswith("#"):
            pattern = line.removeprefix("!").removeprefix("**/")
            parts = [path, *(str(parent) for parent in Path(path).parents)]
            if any(fnmatch(part, pattern) for part in parts) or (line.startswith("**/") and pattern in path.split("/")):
                ignored = not line.startswith("!")
    return ignored


def test_a_linter_finds_nothing() -> None:
    done = subprocess.run([Path(sys.executable).with_name("hadolint"), DOCKERFILE], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_what_is_copied_is_there_and_nothing_else_reaches_the_builder(steps: list[dict[str, Any]]) -> None:
    copied = {
        source
        for step in steps
        if step["instruction"] == "COPY" and not step["value"].startswith("--from")
        for source in step["value"].split()[:-1]
    }
    assert copied and all((ROOT / source).exists() for source in copied)
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    sent = {path for path in tracked if not _ignored(path)}
    assert {path for path in tracked if any(path == one or path.startswith(f"{one}/") for one in copied)} == sent
    for private in (
        ".git/config",
        ".venv/bin/python",
        "shared/photo.jpg",
        "keystore.kek",
        "infra/terraform/terraform.tfstate",
    ):
        assert _ignored(private), private


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_runs_as_nobody_in_particular_and_starts_keyanon(steps: list[dict[str, Any]], target: str) -> None:
    stage = _stage(steps, target)
    users = [step["value"] for step in stage if step["instruction"] == "USER"]
    assert users and all(
        int(part) >= 10_000 for part in users[-1].split(":")
    )  # numbers: kubelet proves by them that it is not root
    (entry,) = (step["value"] for step in stage if step["instruction"] == "ENTRYPOINT")
    assert entry == '["tini", "--", "keyanon"]' and "keyanon" in PROJECT["scripts"]
    written = re.findall(
        r"/opt/keyanon/bin/(\w+)", "".join(step["value"] for step in stage if step["instruction"] == "RUN")
    )
    assert set(written) == {"keyanon", "python", "ray"}  # what KubeRay starts, also where it uses a login shell


def test_no_secret_has_a_place_in_the_image(steps: list[dict[str, Any]]) -> None:
    named = [step["value"] for step in steps if step["instruction"] in ("ARG", "ENV", "LABEL")]
    assert named and not re.search(r"(?i)secret|token|password|access_key|kek", " ".join(named))


def test_dependencies_are_those_of_the_project_at_pinned_versions(steps: list[dict[str, Any]]) -> None:
    """The script's own lines make the list; every name in it has one exact version."""
    script = (FOLDER / "install-dependencies").read_text()
    assert script.count("--constraint constraints.txt") == script.count(" install ")
    lines = re.search(r"<<'PYTHON'\n(.*?)PYTHON\n", script, re.DOTALL)
    assert lines is not None
    (extras,) = (
        step["value"].partition("=")[2] for step in steps if step["instruction"] == "ARG" and "EXTRAS" in step["value"]
    )
    assert any(step["value"] == "EXTRAS=${EXTRAS}" for step in _stage(steps, "dependencies-cuda")), (
        "the script sees them"
    )
    listed = partial(subprocess.run, [sys.executable, "-c", lines[1]], cwd=ROOT, capture_output=True, text=True)
    made = listed(env={**os.environ, "EXTRAS": extras}, check=True).stdout
    optional = PROJECT["optional-dependencies"]
    wanted = [one for name in ("cluster", "evaluation", "heif", "postgresql") for one in optional[name]]
    assert made.splitlines() == [*PROJECT["dependencies"], *wanted], "HEIC is read, and PostgreSQL reached"
    assert listed(env={**os.environ, "EXTRAS": "cluster,none-such"}).returncode != 0
    pinned = {
        line.split("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()[1:]
    }
    asked = {re.split(r"[\[<>=!~ ]", line)[0].lower().replace("_", "-") for line in made.splitlines()}
    assert asked <= pinned
