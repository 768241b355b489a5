"""The examples run as they are, without arguments."""

from pathlib import Path

import pytest

from tests.children import Child, script

EXAMPLES = Path(__file__).parents[1] / "examples"
SAID = {
    "pretrain": ("two-stream: ", "single-stream: ", "features (1, 48)"),
    "probe_an_encoder": ("random init", "raw pixels", "copy", "report: "),
    "read_a_dataset": ("4 episodes at 10 Hz", "pairs (8, 2, 1, 3, 48, 48)", "actions (8, 4, 4)"),
}


def test_every_example_is_run() -> None:
    assert SAID.keys() == {path.stem for path in EXAMPLES.glob("*.py")}


@pytest.mark.parametrize("name", SAID)
def test_an_example_runs_and_says_what_it_should(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = EXAMPLES / f"{name}.py"
    assert len(path.read_text().splitlines()) <= 60
    monkeypatch.chdir(tmp_path)
    done = Child(tmp_path, script, path, env={"TMPDIR": str(tmp_path)}).wait()
    assert done.returncode == 0, done.stderr
    for words in SAID[name]:
        assert words in done.stdout
