import copy
from pathlib import Path
from typing import Any

import pytest

from saccade.report.page import write_report
from tests.report.results_fixture import realistic


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A folder with pictures, and the results that name them; built once, never changed."""
    folder = tmp_path_factory.mktemp("full")
    return folder, realistic(folder)


@pytest.fixture
def results(built: tuple[Path, dict[str, Any]]) -> dict[str, Any]:
    """Results whose pictures lie elsewhere; each test may spoil its own copy."""
    return copy.deepcopy(built[1])


@pytest.fixture(scope="session")
def full(built: tuple[Path, dict[str, Any]]) -> Path:
    """A folder with the whole page, for tests that only read it."""
    folder, results = built
    write_report(results, folder)
    return folder
