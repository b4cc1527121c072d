"""Settings for all tests: the search of Hypothesis."""

import os
from typing import Any

from hypothesis import HealthCheck, settings

pytest_plugins = ["cogni_billing.testing.plugin"]

# Timing on CI varies.
patient: Any = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("ci", max_examples=200, derandomize=True, database=None, **patient)
settings.register_profile("nightly", max_examples=20_000, print_blob=True, **patient)
# mutmut runs the tests repeatedly in one process.
repeated = patient | {
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.differing_executors]
}
settings.register_profile("mutants", max_examples=25, derandomize=True, database=None, **repeated)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
