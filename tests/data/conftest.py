"""What the tests of readers and writers share."""

from pathlib import Path

import pytest

SHARED = Path(__file__).parents[2].parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with data sets that LeRobot itself wrote."""
    if not SHARED.is_dir():
        pytest.fail(f"{SHARED} is missing: these tests need the data sets shared beside the clone")
    return SHARED
