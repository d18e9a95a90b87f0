"""Made-up results of the whole study, once for all tests; no test changes them."""

import pytest

from s2d_lib.claims import Results
from s2d_lib.study import load_profile
from tests.report.synthetic import TABLES, bundle_of_profile

PROFILE = "micro-full"


@pytest.fixture(scope="session")
def full() -> Results:
    return Results(PROFILE, load_profile(PROFILE, {"tables": list(TABLES)}), bundle_of_profile(PROFILE))
