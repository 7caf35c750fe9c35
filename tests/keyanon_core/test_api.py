"""What the README shows a program's author runs as it stands there."""

import re
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from skimage.data import astronaut

from keyanon_core.api import EphemeralPseudonyms, Keyanon
from keyanon_core.errors import PictureError

README = Path(__file__).parents[2] / "README.md"


def test_the_readmes_lines_anonymize_a_picture_and_recover_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (lines,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    Image.fromarray(astronaut()).save("photo.png")
    said: dict[str, Any] = {}
    exec(lines, said)
    source, anonymized, recovered = (
        np.asarray(Image.open(name), dtype=np.float64) for name in ("photo.png", "anonymized.png", "recovered.png")
    )
    (face,) = said["done"].key.faces
    masked = face.mask.full(source.shape)
    assert 0.01 < masked.mean() < 0.2
    near = np.square(recovered - source)[masked].mean()
    assert near < np.square(anonymized - source)[masked].mean() / 10
    assert np.array_equal(recovered[~masked], source[~masked]) and np.array_equal(anonymized[~masked], source[~masked])


@pytest.mark.parametrize(("settings", "reason"), [({}, "no_face"), ({"max_pixels": 10}, "too_large")])
def test_what_can_not_be_published_is_raised(settings: dict[str, int], reason: str) -> None:
    grey = BytesIO()
    Image.new("RGB", (64, 64), "grey").save(grey, "PNG")
    with pytest.raises(PictureError) as raised:
        Keyanon(**settings).anonymize(grey.getvalue())
    assert raised.value.reason == reason and str(raised.value)


def test_two_pictures_of_one_subject_share_a_carrier_and_one_of_nobody_has_none() -> None:
    buffer = BytesIO()
    Image.fromarray(astronaut()).save(buffer, "PNG")
    keyanon = Keyanon(pseudonyms=EphemeralPseudonyms(), gate_threshold=0.0)
    done = [keyanon.anonymize(buffer.getvalue(), subject=subject) for subject in ("a", "a", "b", None)]
    carriers = [one.key.faces[0].carrier_key for one in done if one.key is not None]
    assert carriers[0] == carriers[1] != carriers[2]
    assert (len(carriers), carriers[3]) == (4, None)
