import json
from pathlib import Path
from typing import Any

import pytest

from saccade.errors import DataError
from saccade.report.results import check_results, load_results


def test_what_was_written_is_read(results: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(json.dumps(results))
    assert load_results(tmp_path) == results


def test_a_folder_without_results_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no results.json.*saccade compare"):
        load_results(tmp_path)


def test_half_a_file_is_an_error(results: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(json.dumps(results)[:5000])
    with pytest.raises(DataError, match="is not JSON"):
        load_results(tmp_path)


@pytest.mark.parametrize("value", [[], {}, {"schema": 1}, None])
def test_another_schema_is_refused(value: object) -> None:
    with pytest.raises(DataError, match=r"schema is .*, expected 2"):
        check_results(value)
