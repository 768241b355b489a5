from pathlib import Path
from typing import Any

import pytest
import torch

from saccade.data.lerobot.reader import LeRobotConfig
from saccade.errors import CheckpointError, ConfigError, DataError
from saccade.evals.probe import ProbeConfig
from saccade.experiments.probing import Probing, subject
from saccade.experiments.source import SourceConfig
from saccade.report.results import check_results, load_results
from tests.train.toy import ToyEncoder, ToyEncoderConfig

PROBE = ProbeConfig(gaps=(2, 1), stride=4, resamples=20)


def probing(data: Path, *encoders: Path, **settings: Any) -> Probing:
    source = SourceConfig(episodes=LeRobotConfig(root=data), **settings)
    return Probing(encoders=encoders, source=source, probe=PROBE)


def test_encoders_are_probed_beside_their_untrained_networks_and_the_floors(
    debug_run: Path, lerobot: Path, tmp_path: Path
) -> None:
    encoders = debug_run / "encoder", debug_run / "best" / "encoder"
    heard: list[str] = []
    plan = probing(lerobot, *encoders, held_out_tasks=("pull it",))
    results = plan.run(tmp_path, command="saccade probe", report=heard.append)
    assert load_results(tmp_path) == check_results(results)
    assert (tmp_path / "report.html").is_file()
    names = {str(path) for path in encoders}
    assert {r["representation"] for r in results["probes"] if r["kind"] == "method"} == names
    floors = {r["representation"] for r in results["probes"] if r["kind"] == "floor"}
    assert {f"{name}, random init" for name in names} < floors
    assert {"raw pixels", "raw pixel change", "copy"} < floors
    assert results["budget"]["samples"] == 0
    assert [model["runs"] for model in results["models"]] == [[], []]
    assert results["data"]["held_out_tasks"] == ["pull it"]
    assert results["data"]["parts"]["unseen"] == {"episodes": 6, "frames": 96}
    assert results["data"]["label_frame"] == "camera"
    assert "2 steps ahead" in " ".join(results["verdict"]["details"])  # without 5, the first gap
    assert f"probing {encoders[0]}" in heard


def test_the_untrained_twin_has_the_shape_but_not_the_weights(debug_run: Path) -> None:
    first, again = subject(debug_run / "encoder"), subject(debug_run / "encoder")
    trained, twin = first.trained[0].state_dict(), first.untrained[0].state_dict()
    assert {k: v.shape for k, v in twin.items()} == {k: v.shape for k, v in trained.items()}
    assert not torch.equal(twin["streams.m.to_token.weight"], trained["streams.m.to_token.weight"])
    for name, value in again.untrained[0].state_dict().items():
        assert torch.equal(value, twin[name]), "the floor must not differ from call to call"


def test_encoders_of_different_sizes_are_refused(
    debug_run: Path, lerobot: Path, tmp_path: Path
) -> None:
    ToyEncoder().save_pretrained(tmp_path / "toy", ToyEncoderConfig())
    with pytest.raises(ConfigError, match=r"frames of \[4, 32\] pixels"):
        probing(lerobot, debug_run / "encoder", tmp_path / "toy").run(tmp_path / "out", command="")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("times", [0, 2])
def test_encoders_are_named_once(
    debug_run: Path, lerobot: Path, tmp_path: Path, times: int
) -> None:
    with pytest.raises(ConfigError, match="each once"):
        probing(lerobot, *[debug_run / "encoder"] * times).run(tmp_path, command="")


def test_what_is_missing_is_named(debug_run: Path, lerobot: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nothing has no config\.json"):
        probing(lerobot, tmp_path / "nothing").run(tmp_path, command="")
    with pytest.raises(DataError, match=r"none is no folder"):
        probing(tmp_path / "none", debug_run / "encoder").run(tmp_path, command="")
