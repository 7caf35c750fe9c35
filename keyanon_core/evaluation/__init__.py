"""Figures of reports and benchmarks: how well faces come back, and how good the faces are that a prior makes."""

from keyanon_core.evaluation.quality import (
    EdgeContrast,
    FrechetDistances,
    cheek_typology_angle,
    edge_contrast,
    frechet_distance,
    frechet_distances,
    kernel_distance,
    landmarks_inside,
    nearest,
    seam_width,
    skin_tone,
)
from keyanon_core.evaluation.recovery import (
    STORAGES,
    Crops,
    RecoveryFigures,
    eight_bit,
    measure_crops,
    measure_recovery,
    measure_sidecar,
    psnr,
)

__all__ = [
    "STORAGES",
    "Crops",
    "EdgeContrast",
    "FrechetDistances",
    "RecoveryFigures",
    "cheek_typology_angle",
    "edge_contrast",
    "eight_bit",
    "frechet_distance",
    "frechet_distances",
    "kernel_distance",
    "landmarks_inside",
    "measure_crops",
    "measure_recovery",
    "measure_sidecar",
    "nearest",
    "psnr",
    "seam_width",
    "skin_tone",
]
