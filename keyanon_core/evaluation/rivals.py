"""What others say of their own methods, as published: on other data, by other recognizers, and not measured here.

A figure stands here only where its source states it. Nothing of these projects is in this one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

_PAPER: Final = (
    "Labarbarie, Itier, Puech, Secure and reversible face anonymization with diffusion models, arXiv:2510.01031, 2025"
)
_NOTEBOOK: Final = f"results stored in the notebook of {_PAPER}"
_BACK: Final = "recovered with the right key, TAR by ArcFace"


@dataclass(frozen=True)
class Rival:
    """publication: of the method. figures: what is said, by its name; empty where no source with a figure could be read. data:
    what they were measured on, "" where that is not known. source: who says so."""

    name: str
    publication: str
    figures: Mapping[str, str]
    data: str = ""
    source: str = ""


RIVALS: Final = (
    Rival(
        "FIT",
        "Gu, Luo, Ryoo, Lee, Password-conditioned anonymization and deanonymization with face identity transformers, ECCV 2020",
        {},
    ),
    Rival(
        "RiDDLE", "Li et al., CVPR 2023, arXiv:2303.05171", MappingProxyType({_BACK: "about 30 %"}), source=_NOTEBOOK
    ),
    Rival(
        "G2Face",
        "Yang et al., IEEE TIFS 2024, arXiv:2408.09458",
        MappingProxyType({_BACK: "about 60 %"}),
        source=_NOTEBOOK,
    ),
    Rival("iFADIT", "Yuan et al., 2025, arXiv:2501.04390", MappingProxyType({_BACK: "about 1 %"}), source=_NOTEBOOK),
    Rival(
        "the paper",
        _PAPER,
        MappingProxyType(
            {
                "recovered, PSNR and SSIM": "20.7 dB, 0.857",
                "cosine to the source by ArcFace, anonymized and recovered": "0.029 and 0.692",
                "TAR at FAR 0.1 % by ArcFace, anonymized and recovered": "0.56 % and 70.5 % (clean 99.1 %)",
                "the same out of JPEG 100, 90, 75, 50, recovered": "62, 52, 33, 13 % (69 % without a copy)",
            }
        ),
        "LFW, 1,600 pairs, stored as floating-point numbers unless JPEG is said",
        "results stored in its authors' repository",
    ),
    Rival(
        "CP-RFA",
        "2026",
        MappingProxyType(
            {
                "recovered, PSNR": "37.75 dB",
                "identity, anonymized and recovered": "0.047 and 0.958",
                "beside the picture": "19.8 KB for each face",
            }
        ),
        "LFW, from the PNG as it was written: a JPEG copy is refused",
        "its authors' repository",
    ),
    Rival("KCI", "arXiv:2606.22988, 2026", {}),
    Rival(
        "ReFaceX",
        "Muhammad et al., Scientific Reports, 2026, doi:10.1038/s41598-026-39337-2",
        MappingProxyType({"recovered, PSNR and SSIM": "23.97 dB, 0.9378"}),
        "LFW and CelebA-HQ",
        "a page about PMC12953573, not its authors' own",
    ),
)
"""As read from 2026-11-22 to 2026-11-28."""
