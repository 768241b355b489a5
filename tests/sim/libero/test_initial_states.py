import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from saccade.errors import DataError
from saccade.sim.libero import initial_states, package
from saccade.sim.libero.initial_states import load_initial_states


class Command:
    """Pickled, it runs a command when it is loaded without care."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.canary}",)


def test_libero_s_own_files_are_what_torch_would_load() -> None:
    (task, *_) = package.task_names("libero_object")
    path = package.initial_states_path("libero_object", task)
    states = load_initial_states(path)
    assert states.shape == (50, 110)
    np.testing.assert_array_equal(states, torch.load(path, weights_only=False))


def test_a_file_with_code_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    canary, path = tmp_path / "canary", tmp_path / "task.pruned_init"
    torch.save(Command(canary), path)
    with pytest.raises(DataError, match=r"task.pruned_init is refused.*system"):
        load_initial_states(path)
    assert not canary.exists()
    torch.load(path, weights_only=False)
    assert canary.exists()  # it would have run


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.zeros((2, 3), np.float32), r"holds float32\[2, 3\]"),
        (np.zeros(3), r"holds float64\[3\]"),
        (np.full((2, 3), np.nan), "not finite"),
        ([1.0, 2.0], "holds a list"),
    ],
)
def test_other_contents_are_refused(tmp_path: Path, content: object, message: str) -> None:
    path = tmp_path / "task.pruned_init"
    torch.save(content, path)
    with pytest.raises(DataError, match=message):
        load_initial_states(path)


def test_damaged_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "task.pruned_init"
    with pytest.raises(DataError, match="No such file"):
        load_initial_states(path)
    torch.save(np.zeros((2, 3)), path)
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"text"):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="cannot be read as torch saves arrays"):
            load_initial_states(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(4096))
    packed = path.read_bytes()
    path.write_bytes(packed.replace(packed[46:50], b"\xff" * 4, 1))  # of what is deflated
    with pytest.raises(DataError, match="cannot be read as torch saves arrays"):
        load_initial_states(path)
    path.write_bytes(packed)
    monkeypatch.setattr(initial_states, "LARGEST", 4095)
    with pytest.raises(DataError, match="a pickle of 4096 bytes, over 4095"):
        load_initial_states(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/other", b"")
    with pytest.raises(DataError, match="holds 0 pickles"):
        load_initial_states(path)
