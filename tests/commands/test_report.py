import shutil
from collections.abc import Callable
from pathlib import Path

from tests.conftest import Outcome

Saccade = Callable[..., Outcome]


def test_the_page_is_rebuilt_byte_for_byte(
    saccade: Saccade, compared: Path, tmp_path: Path
) -> None:
    copied = Path(shutil.copytree(compared, tmp_path / "all"))
    (copied / "report.html").unlink()
    done = saccade("report", copied)
    assert (done.code, done.out) == (0, f"{copied / 'report.html'}\n")
    assert (copied / "report.html").read_bytes() == (compared / "report.html").read_bytes()


def test_a_folder_without_results_is_named(saccade: Saccade, tmp_path: Path) -> None:
    done = saccade("report", tmp_path)
    assert done.code == 3
    assert f"{tmp_path} has no results.json" in done.err
    (tmp_path / "results.json").write_text('{"schema": 99}')
    assert "schema is 99, expected 2" in saccade("report", tmp_path).err


def test_a_report_needs_a_folder(saccade: Saccade) -> None:
    assert saccade("report").code == 2
