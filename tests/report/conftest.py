from pathlib import Path
from typing import Any

import pytest

from saccade.report.page import write_report
from tests.report.results_fixture import realistic


@pytest.fixture
def results(tmp_path: Path) -> dict[str, Any]:
    """Results whose pictures lie in ``tmp_path``; each test may spoil its own copy."""
    return realistic(tmp_path)


@pytest.fixture(scope="session")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the whole page, for tests that only read it."""
    folder = tmp_path_factory.mktemp("full")
    write_report(realistic(folder), folder)
    return folder
