import json
from pathlib import Path
from typing import Any

import pytest
import torch
from einops import reduce
from torch import Tensor

from saccade.data.synthetic import SyntheticConfig
from saccade.errors import DataError
from saccade.evals.probes.base import ProbeConfig
from saccade.experiments.evidence import (
    Question,
    Subject,
    cpu_name,
    flops,
    machine,
    measure,
    model_record,
    versions,
    write,
)
from saccade.experiments.source import SourceConfig
from saccade.report.results import check_results
from saccade.types import Preprocessing
from tests.train.toy import ToyEncoder

SOURCE = SourceConfig(episodes=SyntheticConfig(episodes=8, length=6), camera="front")


def question(**settings: Any) -> Question:
    probe = ProbeConfig(gaps=(1,), stride=2, resamples=20)
    return Question(title="t", command="saccade again", source=SOURCE, probe=probe, **settings)


class Small(ToyEncoder):
    """It takes frames that the floors can look at too."""

    preprocessing = Preprocessing(num_frames=1, image_size=16)

    def forward(self, video: Tensor) -> Tensor:
        coarse = reduce(video.float(), "b t c (h p) (w q) -> b t (c h w)", "mean", p=4, q=4)
        return self.project(coarse / 255)[:, :, None]


class Two(Small):
    """It sees both frames of a pair, as the probe wants."""

    preprocessing = Preprocessing(num_frames=2, image_size=16)


def toy(**notes: Any) -> Subject:
    return Subject(
        name="toy", recipe="tests:toy", trained={0: Small()}, untrained={0: Small()}, **notes
    )


def test_equal_encoders_are_told_to_be_equal(tmp_path: Path) -> None:
    same = {0: Two()}
    subject = Subject(name="toy", recipe="tests:toy", trained=same, untrained=same)
    results = measure([subject], question(samples=64), tmp_path)
    check_results(results)
    write(results, tmp_path)
    assert json.loads((tmp_path / "results.json").read_text()) == results
    assert (tmp_path / "report.html").is_file()
    assert (results["budget"]["samples"], results["budget"]["seeds"]) == (64, [0])
    assert results["verdict"]["success"] is False
    rows = {
        r["representation"]: r["value"]
        for r in results["probes"]
        if (r["split"], r["group"], r["metric"]) == ("test", "position", "r2")
    }
    assert rows["toy"] == rows["toy, random init"]
    (twin,) = (
        row
        for row in results["paired"]
        if (row["b"], row["group"], row["gap"]) == ("toy, random init", "position", 1)
    )
    assert (twin["difference"], twin["low"], twin["high"]) == (0, 0, 0)


def test_a_failed_measurement_leaves_the_old_results(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text("old")
    few = SourceConfig(episodes=SyntheticConfig(episodes=2, length=6))
    with pytest.raises(DataError, match="too few"):
        write(measure([toy()], Question(**{**vars(question()), "source": few}), tmp_path), tmp_path)
    assert (tmp_path / "results.json").read_text() == "old"


def test_readings_floors_and_data_are_named(tmp_path: Path) -> None:
    untrained = Subject(
        name="drawn", recipe="r", trained={}, untrained={0: Small()}, weights="random"
    )
    results = measure([toy(weights="here"), untrained], question(seeds=2), tmp_path)
    rows = {row["representation"]: row for row in results["probes"]}
    for how in ("concatenation", "difference"):
        assert rows[f"toy ({how})"]["kind"] == "method"
        assert rows[f"toy ({how}), random init"]["floor_of"] == f"toy ({how})"
        alone = rows[f"drawn ({how}), random weights"]
        assert (alone["kind"], alone["floor_of"], alone["reading"]) == ("floor", None, how)
    assert [model["weights"] for model in results["models"]] == ["here", "random"]
    for model in results["models"]:
        assert model["encoded_per_second"] > 0
        assert model["store_mb"] > 0
    described = results["data"]
    assert described["parts"] == {
        "train": {"episodes": 4, "frames": 24},
        "select": {"episodes": 2, "frames": 12},
        "test": {"episodes": 2, "frames": 12},
    }
    assert described["tasks"] == ["follow command 0", "follow command 1"]
    assert (described["held_out_tasks"], described["camera"]) == ([], "front")
    assert (described["fps"], described["image_size"]) == (10.0, 16)


def test_floating_point_operations_are_counted() -> None:
    assert flops(ToyEncoder()) == 2 * 48 * 16  # one matrix, a multiply-add is two


def test_a_model_record_counts_what_is_kept_and_what_was_trained() -> None:
    record = model_record(toy(trained_parameters=2000, notes=("n",)), [])
    assert record["encoder_parameters"] == 48 * 16 + 16
    assert record["trained_parameters"] == 2000
    assert (record["notes"], record["runs"]) == (["n"], [])
    assert record["encoded_per_second"] is None, "nothing was encoded"


def test_versions_and_machine_say_where_the_numbers_come_from() -> None:
    assert versions()["torch"] == torch.__version__
    assert {"python", "saccade", "numpy"} < versions().keys()
    assert machine()["cores"] >= 1
    assert machine()["memory_gb"] > 0
    assert cpu_name()
