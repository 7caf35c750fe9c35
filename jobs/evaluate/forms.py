"""What comes back out of each form that a picture is kept in, or comes back in; all of the same faces."""

from typing import Any, Final

import numpy as np

from jobs.evaluate.portions import Measured
from keyanon_core.evaluation.forms import BESIDE, FORMS, STORED, TRIED
from keyanon_core.evaluation.intervals import median_of
from keyanon_core.evaluation.metrics import RECOVERED
from keyanon_core.evaluation.rehearsal import SIDECAR

LIKENESS: Final = ("psnr_face", "ssim_face", "mae_face", "psnr_picture")
NO_BYTES: Final = (0,)


def forms_of(found: Measured) -> list[dict[str, Any]]:
    """A line for each of FORMS that was tried, JSON types: medians over the faces of pictures that were tried in all of them;
    bytes beside the picture, of all pictures of which they are known. Empty where none was tried."""
    tried = np.unique(found.faces.face[np.isin(found.faces.version, list(TRIED))])
    faces = found.faces.rows(np.isin(found.faces.face, tried))
    lines = []
    for name, sentence in FORMS.items() if len(tried) else ():
        of_form = faces.of(name)
        values = {metric: of_form.values[metric] for metric in LIKENESS}
        known = {metric: median_of(value[~np.isnan(value)]) for metric, value in values.items()}
        made_anew = name.removesuffix(f"-{RECOVERED}")
        beside = f"{made_anew}{BESIDE}" if made_anew in STORED else SIDECAR
        kilobytes = float(np.median(found.stored_bytes.get(beside, NO_BYTES))) / 1000
        line: dict[str, Any] = {"form": name, "says": sentence, "faces": len(of_form.face), "kilobytes": kilobytes}
        line |= {metric: estimate.to_dict()["value"] for metric, estimate in known.items()}
        bought = kilobytes and line["psnr_face"] is not None
        lines.append({**line, "db_per_kb": line["psnr_face"] / kilobytes if bought else None})
    return lines
