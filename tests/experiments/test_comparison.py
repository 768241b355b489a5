import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from saccade.errors import ConfigError
from saccade.evals.probes.base import ProbeConfig
from saccade.experiments.comparison import Comparison, Method, point
from saccade.experiments.training import Training
from saccade.recipes import single_stream, two_stream, video_mae
from saccade.report.results import Results, load_results
from tests.conftest import train_here

NAMES = {"two-stream", "single-stream", "video-mae"}
FLOORS = {
    *("raw pixels", "raw pixel change", "gradients (HOG)", "flow histogram"),
    *("position only", "task only", "copy"),
}
PROBE = ProbeConfig(gaps=(1,), stride=8, resamples=20)


def comparison(*trainings: Training, names: str = "ab", **settings: Any) -> Comparison:
    methods = tuple(
        Method(name=name, recipe=f"tests:{name}", training=training)
        for name, training in zip(names, trainings, strict=True)
    )
    given: dict[str, Any] = {"samples": 16, "seeds": 1} | settings
    return Comparison(methods=methods, probe=PROBE, **given)


def changed(training: Training, **settings: Any) -> Training:
    return replace(training, train=replace(training.train, **settings))


@pytest.fixture
def results(compared: Path) -> Results:
    return load_results(compared)  # which checks them


def test_the_results_hold_every_method_and_every_floor(results: Results) -> None:
    untrained = {f"{name}, random init" for name in NAMES}
    kinds = {row["representation"]: row["kind"] for row in results["probes"]}
    assert {name for name, kind in kinds.items() if kind == "method"} == NAMES
    assert {name for name, kind in kinds.items() if kind == "floor"} == untrained | FLOORS
    owners = {r["floor_of"] for r in results["probes"] if r["representation"] in untrained}
    assert owners == NAMES
    for gap in (1, 2):
        rows = [r for r in results["probes"] if (r["gap"], r["group"]) == (gap, "position")]
        assert {row["representation"] for row in rows} == NAMES | untrained | FLOORS
    pairs = {frozenset((row["a"], row["b"])) for row in results["paired"]}
    for name in NAMES:
        against = FLOORS | {f"{name}, random init"}  # those of others say nothing about it
        assert {frozenset((name, floor)) for floor in against} <= pairs


def test_methods_and_their_untrained_networks_have_every_seed(results: Results) -> None:
    seeds = results["budget"]["seeds"]
    for row in results["probes"]:
        assert row["seeds"] == ([0] if row["representation"] in FLOORS else seeds)


def test_every_run_saw_the_same_samples(results: Results, compared: Path) -> None:
    assert results["budget"]["samples"] == 32
    assert {model["name"] for model in results["models"]} == NAMES
    for model in results["models"]:
        assert [run["seed"] for run in model["runs"]] == results["budget"]["seeds"]
        for run in model["runs"]:
            assert run["history"][-1]["samples"] == 32
            assert json.loads((compared / run["folder"] / "result.json").read_text())["steps"] == 4


def test_the_page_and_its_pictures_are_there(results: Results, compared: Path) -> None:
    page = (compared / "report.html").read_text()
    assert results["verdict"]["sentence"].split(":")[0] in page
    shown = [run.get("pictures", {}) for model in results["models"] for run in model["runs"]]
    assert all({"now", "later"} <= paths.keys() for paths in shown)
    assert all((compared / path).is_file() for paths in shown for path in paths.values())


def test_what_is_finished_is_not_trained_again(tmp_path: Path) -> None:
    source = replace(two_stream.debug().source, held_out_tasks=("follow command 1",))
    pair = (replace(recipe.debug(), source=source) for recipe in (two_stream, video_mae))
    plan = comparison(*pair, samples=8, seeds=2)
    assert list(plan.unfinished(tmp_path)) == [f"{m}, seed {s}" for s in (0, 1) for m in "ab"]
    train_here(plan, tmp_path)
    assert plan.unfinished(tmp_path) == {}
    plan = replace(plan, seeds=1)
    results = plan.run(tmp_path, command="again", seconds={"collect": 1.0})
    assert results["commands"] == ["again"]
    assert results["seconds"].keys() == {"collect", "train", "probe"}
    assert results["data"]["held_out_tasks"] == ["follow command 1"]
    assert {row["split"] for row in results["probes"]} == {"test", "unseen"}


def test_a_folder_of_other_settings_is_refused_and_kept(tmp_path: Path) -> None:
    training = video_mae.debug()
    place = comparison(training, names="a").place(tmp_path, METHOD, 0)
    training.run(place)
    before = (place / "result.json").read_bytes()
    for other in (
        comparison(training, names="a"),
        comparison(changed(training, lr=1e-4), names="a"),
    ):
        with pytest.raises(ConfigError, match="holds a run with other settings"):
            other.run(tmp_path, command="")
    assert (place / "result.json").read_bytes() == before


METHOD = Method(name="a", recipe="", training=video_mae.debug())


def other_data(training: Training) -> Training:
    return replace(training, source=replace(training.source, split_seed=1))


def other_size(training: Training) -> Training:
    return replace(training, objective=two_stream.original_tiny().objective)


def other_budget(training: Training) -> Training:
    return changed(training, samples=64)


@pytest.mark.parametrize(
    ("change", "told"),
    [(other_data, "sources"), (other_size, "image sizes"), (other_budget, "numbers of samples")],
)
def test_unequal_conditions_are_refused(change: Callable[..., Training], told: str) -> None:
    pair = two_stream.debug(), change(single_stream.debug())
    with pytest.raises(ConfigError, match=f"different {told}"):
        comparison(*pair, samples=0).check()


def test_a_common_budget_makes_budgets_equal() -> None:
    plan = comparison(two_stream.debug(), other_budget(single_stream.debug()), samples=16)
    plan.check()
    assert {plan.training(method, seed=0).train.samples for method in plan.methods} == {16}


@pytest.mark.parametrize(
    ("plan", "told"),
    [
        (comparison(video_mae.debug(), video_mae.debug(), names="aa"), "names of their own"),
        (comparison(names=""), "names of their own"),
        (comparison(video_mae.debug(), names="a", seeds=0), "at least one run"),
    ],
)
def test_an_impossible_comparison_writes_nothing(
    tmp_path: Path, plan: Comparison, told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        plan.run(tmp_path / "out", command="")
    assert not (tmp_path / "out").exists()


def test_a_line_of_metrics_becomes_a_point() -> None:
    line = {"step": 2, "samples": 16, "lr": 0.1, "train/loss": 0.5, "train/m": 0.25}
    expected = {"step": 2, "samples": 16, "train": {"loss": 0.5, "m": 0.25}, "eval": None}
    assert point(line, "copy") == expected
    scored = {**line, "eval/loss": 0.75, "eval/copy": 1.5, "eval/flat": 3.0}
    assert point(scored, "copy") == expected | {"eval": {"loss": 0.75, "baseline": 1.5}}
