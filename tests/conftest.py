"""For all tests; how long Hypothesis searches."""

import os
from typing import Any

from hypothesis import HealthCheck, settings

pytest_plugins = ["cogni_billing.testing.plugin"]

# How quick a shared machine makes examples says nothing of the code.
patient: Any = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("ci", max_examples=200, derandomize=True, database=None, **patient)
settings.register_profile("nightly", max_examples=20_000, print_blob=True, **patient)
# mutmut runs the tests again and again in one process.
repeated = patient | {
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.differing_executors]
}
settings.register_profile("mutants", max_examples=25, derandomize=True, database=None, **repeated)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
