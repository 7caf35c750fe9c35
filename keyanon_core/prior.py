"""The name under which the jobs know the priors."""

from keyanon_core.priors import EMBEDDED, Prior, load_prior

__all__ = ["EMBEDDED", "Prior", "load_prior"]
