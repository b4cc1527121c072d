"""For all tests; how long Hypothesis searches."""

import os

import pytest
from hypothesis import settings

pytest.register_assert_rewrite("contract")

settings.register_profile("ci", max_examples=200, derandomize=True, database=None, deadline=None)
settings.register_profile("nightly", max_examples=20_000, deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
