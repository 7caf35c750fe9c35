"""Figures of reports and benchmarks: how well faces come back, and how good the faces are that a prior makes."""

from keyanon_core.evaluation.quality import (
    EdgeContrast,
    cheek_typology_angle,
    edge_contrast,
    frechet_distance,
    kernel_distance,
    landmarks_inside,
    nearest,
    skin_tone,
)
from keyanon_core.evaluation.recovery import (
    STORAGES,
    Crops,
    RecoveryFigures,
    eight_bit,
    measure_recovery,
    measure_sidecar,
    psnr,
)

__all__ = [
    "STORAGES",
    "Crops",
    "EdgeContrast",
    "RecoveryFigures",
    "cheek_typology_angle",
    "edge_contrast",
    "eight_bit",
    "frechet_distance",
    "kernel_distance",
    "landmarks_inside",
    "measure_recovery",
    "measure_sidecar",
    "nearest",
    "psnr",
    "skin_tone",
]
