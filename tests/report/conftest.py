from pathlib import Path
from typing import Any

import pytest

from tests.report.results_fixture import realistic


@pytest.fixture
def results(tmp_path: Path) -> dict[str, Any]:
    """Results whose pictures lie in ``tmp_path``; each test may spoil its own copy."""
    return realistic(tmp_path)
