"""How long the property tests search: a few seconds in the normal suite, as long as KEYANON_FUZZ_EXAMPLES says otherwise."""

import os
from datetime import timedelta
from typing import Final

from hypothesis import HealthCheck, settings

EXAMPLES_VARIABLE: Final = "KEYANON_FUZZ_EXAMPLES"  # examples a test; unset: few, and the same ones each time
FEW_EXAMPLES: Final = 60
LONGEST_EXAMPLE: Final = timedelta(seconds=10)  # of a long search only: an input that takes longer is a find

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example, HealthCheck.filter_too_much]

settings.register_profile(
    "few", max_examples=FEW_EXAMPLES, deadline=None, derandomize=True, database=None, suppress_health_check=SLOW
)
settings.register_profile(
    "long",
    max_examples=int(os.environ.get(EXAMPLES_VARIABLE, FEW_EXAMPLES)),
    deadline=LONGEST_EXAMPLE,
    suppress_health_check=SLOW,
    print_blob=True,
)
PROFILE: Final = "long" if EXAMPLES_VARIABLE in os.environ else "few"
