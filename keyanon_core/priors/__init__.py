"""Priors: the pretrained diffusion models, read from diffusers directories and checked before use."""

from keyanon_core.priors.loading import load_prior
from keyanon_core.priors.prior import Prior
from keyanon_core.procedure import EMBEDDED

__all__ = ["EMBEDDED", "Prior", "load_prior"]
