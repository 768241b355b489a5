"""A study of a saved world model with random weights, and of adapters in it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from saccade.config import from_dict
from saccade.data.synthetic import SyntheticConfig
from saccade.errors import CheckpointError, ConfigError, DataError
from saccade.experiments.energy import EnergyStudy
from saccade.experiments.energy_grids import GridsConfig
from saccade.experiments.moments import MomentsConfig
from saccade.experiments.source import SourceConfig
from tests.fixtures.world_models import write_world_model

GRIDS = GridsConfig(axes=("x",), steps=(3,), slices=(), sweep_steps=0, widen=(1.0,))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("energy")
    write_world_model(folder)
    return folder


def study(root: Path, **changes: Any) -> EnergyStudy:
    settings = {
        "model": root / "model",
        "adapters": tuple(root / name for name in ("step_000100", "step_000200", "fresh")),
        "source": SourceConfig(episodes=SyntheticConfig()),
        "moments": MomentsConfig(episodes=4, per_episode=2, part="all"),
        "grids": GRIDS,
        "drawn": 1,
        "resamples": 20,
        "device": "cpu",
    }
    return EnergyStudy(**{**settings, **changes})


@pytest.fixture(scope="module")
def ran(root: Path) -> tuple[dict[str, Any], Path]:
    folder = root / "out"
    return study(root).run(folder, command="saccade energy"), folder


def test_base_and_adapters_answer_on_the_same_moments(ran: tuple[dict[str, Any], Path]) -> None:
    models = ran[0]["models"]
    assert [one["name"] for one in models] == ["base", "step_000100", "step_000200", "fresh"]
    assert [one["step"] for one in models] == [0, 100, 200, None]
    places = [[(m["episode"], m["start"]) for m in one["moments"]] for one in models]
    assert len(places[0]) == 8
    assert all(other == places[0] for other in places)
    assert [one["changed"] for one in models] == [None, True, True, False]
    scores = [[m["energy_lowest"] for m in one["moments"]] for one in models]
    assert scores[3] == scores[0]  # adapters that were never trained change nothing
    assert scores[1] != scores[0] != scores[2] != scores[1]


def test_random_weights_are_no_success(ran: tuple[dict[str, Any], Path]) -> None:
    results, _ = ran
    assert not results["verdict"]["success"]
    assert results["verdict"]["sentence"].startswith("No success")
    rung = {(alarm["name"], alarm["model"]) for alarm in results["alarms"]}
    assert ("floor", "base") in rung
    assert ("no effect", "fresh") in rung


def test_the_file_says_what_the_numbers_depend_on(ran: tuple[dict[str, Any], Path]) -> None:
    results, folder = ran
    assert json.loads((folder / "results.json").read_text()) == results
    assert (results["kind"], results["format"]) == ("landscape", 1)
    assert results["model"]["crop"] == results["data"]["crop"] == "square"
    assert len(results["model"]["digest"]) == 16
    assert results["adapters"][0]["record"]["base"] == results["model"]["digest"]
    assert len({one["digest"] for one in results["adapters"]}) == 3
    assert (results["data"]["episodes"], results["data"]["moments"]) == (4, 8)
    assert all((folder / path).is_file() for path in results["pictures"][0].values())
    assert isinstance(from_dict(results["settings"]), EnergyStudy)
    assert (folder / "report.html").is_file()


def test_a_run_folder_is_named_by_its_path_where_ends_are_equal(root: Path) -> None:
    runs = []
    for run in ("one", "two"):
        shutil.copytree(root / "step_000100", root / run / "final", dirs_exist_ok=True)
        runs.append(root / run / "final")
    assert study(root, adapters=tuple(runs)).labels() == [str(run) for run in runs]
    assert study(root, adapters=(root / "step_000100",)).labels() == ["step_000100"]
    with pytest.raises(ConfigError, match="name each once"):
        study(root, adapters=(runs[0], runs[0])).labels()


@pytest.mark.parametrize(
    ("changes", "error", "told"),
    [
        ({"crop": "ac"}, ConfigError, "cropped by 'ac'; the model was trained on 'square'"),
        (
            {"source": SourceConfig(episodes=SyntheticConfig(), camera="wrist")},
            ConfigError,
            "no camera 'wrist'",
        ),
        ({"grids": replace(GRIDS, axes=("x", "yaw"))}, ConfigError, "model's actions are"),
        ({"moments": MomentsConfig(horizon=20, part="all")}, DataError, "as long as a moment"),
        ({"moments": MomentsConfig(part="unseen")}, ConfigError, "no part 'unseen'"),
        ({"memory": 0.0}, ConfigError, "must be above 0"),
        ({"step_seconds": 0.25}, ConfigError, "knows how long its steps last"),
    ],
)
def test_what_does_not_fit_is_refused(
    root: Path, tmp_path: Path, changes: dict[str, Any], error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        study(root, adapters=(), **changes).run(tmp_path / "out", command="")
    assert not (tmp_path / "out").exists()


def test_data_that_are_too_slow_are_refused(root: Path, tmp_path: Path) -> None:
    slow = tmp_path / "slow"
    shutil.copytree(root / "model", slow)
    config = json.loads((slow / "config.json").read_text())
    config["preprocessing"]["world_model"]["step_seconds"] = 0.05
    (slow / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=r"0\.1 s apart, a step of the model lasts 0\.05 s"):
        study(root, model=slow, adapters=()).run(tmp_path / "out", command="")


def test_adapters_of_another_base_are_refused_before_anything_is_computed(
    root: Path, tmp_path: Path
) -> None:
    write_world_model(tmp_path, seed=1)
    foreign = (root / "step_000100", tmp_path / "step_000100")
    with pytest.raises(CheckpointError, match="was trained on the network"):
        study(root, adapters=foreign).run(tmp_path / "out", command="")
    with pytest.raises(CheckpointError, match=r"holds no saccade\.json"):
        study(root, adapters=(tmp_path,)).run(tmp_path / "out", command="")
    assert not (tmp_path / "out").exists()


def test_an_absent_model_says_what_to_get(tmp_path: Path) -> None:
    for name in ("none", "vjepa2-ac-vitg.pt"):
        with pytest.raises(CheckpointError) as caught:
            study(tmp_path, model=tmp_path / name).load()
        told = str(caught.value)
        for part in (name, "vjepa2-ac-vitg.pt (11.7 GB)", "curl -L", "saccade export convert"):
            assert part in told
    (tmp_path / "vjepa2-ac-vitg.pt").write_bytes(b"no weights")
    official = study(tmp_path, model=tmp_path / "vjepa2-ac-vitg.pt")
    with pytest.raises(ConfigError, match="give --step-seconds"):
        official.load()
    with pytest.raises(CheckpointError, match="not an official file"):
        replace(official, step_seconds=0.25).load()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is an accelerator")
def test_an_absent_accelerator_is_said(root: Path) -> None:
    with pytest.raises(ConfigError, match="no device 'cuda' here"):
        study(root, device="cuda").load()


def test_half_precision(root: Path) -> None:
    model = study(root, precision="bfloat16").load()
    assert next(model.predictor.parameters()).dtype is torch.bfloat16
