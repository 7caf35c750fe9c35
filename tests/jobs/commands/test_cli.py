"""What belongs to the command line as a whole."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import typer.main

from jobs.commands.cli import app
from jobs.commands.options import AT_ITS_WORD
from jobs.exit_codes import ExitCode

from .conftest import Keyanon

START = "import sys; from jobs.commands.cli import main; sys.exit(main())"


def options(command: click.Command, name: str) -> Iterator[tuple[str, str]]:
    """Every command below one that has an option, and the option's help."""
    for below in getattr(command, "commands", {}).values():
        yield from options(below, name)
    for one in command.params:
        if name in one.opts:
            yield str(command.name), getattr(one, "help", "")


def completed(line: str, word: int) -> set[str]:
    """What a shell is offered for the word of that number of a command line."""
    asked = {**os.environ, "_KEYANON_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(word)}
    run = subprocess.run([sys.executable, "-c", START], env=asked, capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def test_the_version_is_that_of_the_package(keyanon: Keyanon) -> None:
    ended = keyanon("--version")
    project = (Path(__file__).parents[3] / "pyproject.toml").read_text()
    assert ended.code == ExitCode.OK
    assert f'version = "{ended.out.removeprefix("keyanon ").strip()}"' in project


def test_shells_complete_commands_options_and_choices() -> None:
    assert completed("keyanon an", 1) == {"anonymize"}
    assert completed("keyanon quarantine ", 2) == {"list", "retry"}
    assert "--keystore" in completed("keyanon anonymize --ke", 2)
    assert completed("keyanon anonymize --method ", 3) == {"exact", "paper", "paper-inpaint"}


@pytest.mark.parametrize("name", ["run.yaml", "RUN.YML"])
def test_a_configuration_given_as_the_source_is_pointed_to_its_option(
    keyanon: Keyanon, tmp_path: Path, name: str
) -> None:
    for present in (False, True):
        if present:
            (tmp_path / name).write_text("steps: 4\n")
        ended = keyanon("anonymize", tmp_path / name, "-o", tmp_path / "out")
        assert ended.code == ExitCode.USAGE
        assert "--config" in ended.err
    assert not (tmp_path / "out").exists()


def test_the_help_of_each_name_says_what_it_is_worth() -> None:
    told = dict(options(typer.main.get_command(app), "--as"))
    assert {"request", "approve", "deny", "recover", "erase", "set", "lost-keys", "break-glass"} <= told.keys()
    assert all(AT_ITS_WORD in one for one in told.values()), told
