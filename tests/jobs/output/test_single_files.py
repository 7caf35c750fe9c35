"""What an inspection says of a file that it can not read."""

from pathlib import Path

import pytest

from jobs.output.reader import OutputError, inspect_sidecar
from keyanon_core.errors import SidecarError
from keyanon_core.sidecar import MAX_SIDECAR_BYTES


def test_what_is_larger_than_any_sidecar_is_damaged_and_what_is_not_there_is_not(tmp_path: Path) -> None:
    with (tmp_path / "large.keyanon").open("wb") as file:
        file.truncate(MAX_SIDECAR_BYTES + 1)
    with pytest.raises(SidecarError, match="exceeds a sidecar's limit"):
        inspect_sidecar(tmp_path / "large.keyanon")
    with pytest.raises(OutputError, match="can not be read"):
        inspect_sidecar(tmp_path / "none.keyanon")
