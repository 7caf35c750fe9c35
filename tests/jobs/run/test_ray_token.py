"""Where the token of a local cluster is kept."""

import contextlib
import os
from pathlib import Path

import pytest
import ray

from jobs.run.cluster import TOKEN_PATH_VARIABLE, _give_token_a_home, ray_cluster

SETTINGS = (TOKEN_PATH_VARIABLE, "RAY_AUTH_TOKEN", "RAY_AUTH_MODE")


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)


def test_rays_token_is_kept_in_a_private_place_where_the_home_takes_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").write_text("no directory")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with contextlib.ExitStack() as stack:
        _give_token_a_home(stack)
        kept = Path(os.environ[TOKEN_PATH_VARIABLE])
        assert kept.stat().st_mode & 0o777 == 0o600 and len(kept.read_text()) == 64
    assert not kept.exists() and TOKEN_PATH_VARIABLE not in os.environ


def test_a_local_cluster_begins_with_that_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home").write_text("no directory")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    begun: list[str | None] = []
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **_: begun.append(os.environ.get(TOKEN_PATH_VARIABLE)))
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    with ray_cluster(0):
        assert len(begun) == 1 and begun[0] is not None and Path(begun[0]).is_file()
    assert TOKEN_PATH_VARIABLE not in os.environ


def test_a_home_that_takes_it_is_left_to_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with contextlib.ExitStack() as stack:
        _give_token_a_home(stack)
        assert TOKEN_PATH_VARIABLE not in os.environ


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_token_that_somebody_chose_stays(setting: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "nowhere" / "home"))
    monkeypatch.setenv(setting, "chosen")
    with contextlib.ExitStack() as stack:
        _give_token_a_home(stack)
        assert {name: os.environ.get(name) for name in SETTINGS if name in os.environ} == {setting: "chosen"}
    assert os.environ[setting] == "chosen"
