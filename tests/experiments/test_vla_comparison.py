import json
import shutil
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from saccade.config import to_dict
from saccade.data.synthetic_reach import ReachConfig
from saccade.errors import CheckpointError, ConfigError
from saccade.evals.rollout_workers import Job, Stage
from saccade.evals.rollouts import play
from saccade.evals.success import compare
from saccade.experiments import evaluating, vla_comparison
from saccade.experiments.source import SourceConfig
from saccade.experiments.success_rates import load
from saccade.experiments.training import Training, with_budget
from saccade.experiments.vla_comparison import Model, Rollouts, VlaComparison
from saccade.experiments.vla_findings import by_episode, verdict
from saccade.models.pretrained import PretrainedConfig
from saccade.models.vit import ViTConfig
from saccade.recipes import two_stream, vla
from saccade.types import Policy
from saccade.vla.openvla import OpenVla
from saccade.vla.pi0 import Pi0
from tests.vla.reach_scene import PROTOCOL, ReachSuite

SOURCE = SourceConfig(
    episodes=ReachConfig(episodes=20), camera="agentview", shares=(0.8, 0.2, 0.0), demos=0.5
)
OURS = ViTConfig(image_size=32, num_frames=2, tubelet=2, patch=8, dim=24, depth=1, heads=2)
ARMS = ["original", "re-projected", "ours", "untrained"]


def comparison(folder: Path) -> VlaComparison:
    """Return one of a fresh OpenVLA and a fresh pi0, and an encoder that lies in a folder."""
    torch.manual_seed(0)
    OURS.build().save_pretrained(folder / "encoder", OURS)
    tuning = replace(vla.debug(), source=replace(SOURCE, cache=str(folder / "cache")))
    tuning = replace(tuning, objective=replace(vla.finetune_tiny().objective, warm_up=1))  # type: ignore[type-var]
    loop = replace(tuning.train, eval_every=1000, save_every=1000)
    tuning = replace(tuning, train=loop, eval_samples=8)
    whole = with_budget(replace(tuning, objective=vla.debug().objective), 8, 0)
    models = []
    for name, recipe in (("openvla", vla.debug()), ("pi0", vla.pi0_debug())):
        policy: Any = recipe.objective
        small = policy.policy if name == "openvla" else replace(policy.policy, cameras=1)
        models.append(Model(name=name, policy=small, training=replace(whole, objective=policy)))
    return VlaComparison(
        models=tuple(models),
        encoders={"ours": PretrainedConfig(folder=folder / "encoder")},
        tuning=tuning,
        samples=16,
        rollouts=Rollouts(suite=ReachSuite(), protocol=replace(PROTOCOL, trials=1)),
        pictures=40,
    )


def train_here(
    trainings: Mapping[str, tuple[Training, Path]], jobs: int, report: Any = None
) -> None:
    """Train in this process, which has imported everything."""
    for training, place in trainings.values():
        training.run(place)


def play_here(stage: Stage, jobs: Sequence[Job], workers: int) -> Generator[tuple[Job, Any]]:
    """Play in this process, too: workers have tests of their own."""
    for job in jobs:
        (task,) = [task for task in stage.suite.tasks if task.name == job.key.task]
        scene, player = stage.suite.open(task), stage.players[job.who].build()
        scene.reset(job.key.initial_state, job.key.seed)
        player.check(scene)
        yield job, play(scene, player, job.key, stage.protocol)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A comparison from fresh weights to the page. Read only."""
    folder = tmp_path_factory.mktemp("eyes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vla_comparison, "train_all", train_here)
        patch.setattr(evaluating, "play_all", play_here)
        patch.setattr(evaluating, "write_success_report", lambda *_: None)  # its own tests draw it
        plan = comparison(folder)
        results = plan.run(folder / "out", command="saccade vla compare")
    return plan, folder / "out", results


def test_fresh_models_are_trained_swapped_tuned_and_act(done: Any) -> None:
    plan, folder, results = done
    assert [model["name"] for model in results["models"]] == ["openvla", "pi0"]
    for model, kind in zip(results["models"], (OpenVla, Pi0), strict=True):
        assert [row["name"] for row in model["rows"]] == ARMS
        for row in model["rows"]:
            assert row["success"]["trials"] == 2
            assert row["curve"][-1][0] == 16
            run = plan.tuned(folder, model["name"], row["name"], 0)
            assert isinstance(Policy.from_pretrained(run / "policy"), kind)
            assert {"loss", "action_error"} <= row["scores"].keys()
            known = row["scores"]["loss"]
            assert known["low"] <= known["value"] <= known["high"]
        assert ("token_accuracy" in model["rows"][0]["scores"]) == (kind is OpenVla)
        assert model["base"]["trials"] == 2
        assert [one["share"] for one in model["fixed_losses"]] == [0.25, 0.5, 1.0]
    assert results["floors"].keys() == {"random", "nothing"}
    assert results["data"]["learned"] == 8
    assert results["data"]["held_out"] == 4
    assert json.loads((folder / "results.json").read_text()) == results


def test_success_is_compared_on_the_same_keys(done: Any) -> None:
    plan, folder, results = done
    for model in results["models"]:
        for row in model["rows"]:
            if row["name"] == "re-projected":
                assert "control" not in row["success_beside"]
                assert row["loss_beside"].keys() == {"original", "untrained"}
                continue
            one, other = (
                load(plan.rolled(folder, model["name"], name, 0))
                for name in (row["name"], "re-projected")
            )
            assert one.outcomes.keys() == other.outcomes.keys()
            found = compare(one.outcomes, other.outcomes)
            beside = row["success_beside"]["control"]
            assert (beside["value"], beside["p"]) == (found.value, found.p)
            assert beside["p_holm"] >= found.p


def test_what_all_have_in_common_is_the_same(done: Any) -> None:
    plan, folder, results = done
    for model in results["models"]:
        digests = [
            json.loads((plan.place(folder, "eyes", model["name"], arm) / "swap.json").read_text())
            for arm in ARMS
        ]
        assert len({found["digests"]["language"] for found in digests}) == 1
        assert [found["new"] for found in digests] == [[], *[["projector"]] * 3]
        assert digests[0]["digests"]["towers"] == digests[1]["digests"]["towers"]
        # ours and untrained: one network with other weights
        assert digests[2]["digests"]["encoder"] != digests[3]["digests"]["encoder"]


def test_a_new_projector_is_another_one_with_each_seed(done: Any, tmp_path: Path) -> None:
    plan, folder, _ = done
    shutil.copytree(folder / "base", tmp_path / "base")
    more = replace(plan, seeds=2)
    more._exchanges(tmp_path, lambda _: None)
    trainings = more._trainings(tmp_path)
    assert len(trainings) == 2 * len(more.models) * len(ARMS)
    for arm in more.arms():
        places = [more.swapped(tmp_path, "openvla", arm, seed) for seed in (0, 1)]
        one, two = (json.loads((place / "swap.json").read_text())["digests"] for place in places)
        assert one["language"] == two["language"]
        assert (one["projector"] == two["projector"]) == (arm.swap.mode == "keep")
        for seed, place in enumerate(places):
            training, _ = trainings[f"openvla, {arm.name}, seed {seed}"]
            assert training.objective.policy.folder == place / "policy"  # type: ignore[attr-defined]


def test_the_page_and_the_table_say_it(done: Any) -> None:
    _, folder, results = done
    page, table = ((folder / name).read_text() for name in ("report.html", "table.md"))
    assert results["verdict"]["sentence"] in page.replace("&#39;", "'")
    assert table.count("| re-projected |") == 2
    assert "success of 2" in table
    assert "--seeds 3" in page


def test_the_same_command_does_nothing_anew_and_another_is_refused(
    done: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, folder, results = done

    def none(trainings: Mapping[str, Any], *_: Any) -> None:
        assert not trainings

    monkeypatch.setattr(vla_comparison, "train_all", none)
    again = plan.run(folder, command="saccade vla compare")
    assert again["models"] == results["models"]
    with pytest.raises(CheckpointError, match="samples"):
        replace(plan, samples=32).run(folder, command="saccade vla compare")


def test_held_out_sums_are_those_of_the_moments(done: Any) -> None:
    plan, folder, results = done
    run = plan.tuned(folder, "openvla", "ours", 0)
    policy: Any = Policy.from_pretrained(run / "policy").eval()
    parts = plan.tuning.source.open(32)
    sums = by_episode(policy, parts)
    assert len(sums["loss"]) == 4
    counts, totals = np.array(sums["loss"]).T
    assert (counts == 16).all()
    known = results["models"][0]["rows"][2]["scores"]["loss"]["value"]
    assert totals.sum() / counts.sum() == pytest.approx(known, rel=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoders": {}}, "--encoders"),
        ({"encoders": {"original": OURS}}, "name of a row of ours"),
        ({"modes": ("keep",)}, "replace"),
        ({"seeds": 0}, "at least one"),
        ({"models": ()}, "names of their own"),
    ],
)
def test_what_is_no_comparison_is_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    plan = replace(comparison(tmp_path), **change)
    with pytest.raises(ConfigError, match=message):
        plan.run(tmp_path / "out", command="")


def test_an_encoder_that_saw_what_is_held_out_raises_an_alarm(tmp_path: Path) -> None:
    plan = comparison(tmp_path)
    record = tmp_path / "experiment.json"
    pretraining = two_stream.debug()
    for shares, expected in (((0.8, 0.2, 0.0), []), ((0.6, 0.2, 0.2), ["ours"])):
        source = replace(plan.tuning.source, shares=shares, demos=1.0)
        record.write_text(json.dumps(to_dict(replace(pretraining, source=source))))
        assert plan.seen_before() == expected
    other = replace(plan.tuning.source, episodes=ReachConfig(episodes=7), shares=(0.6, 0.2, 0.2))
    record.write_text(json.dumps(to_dict(replace(pretraining, source=other))))
    assert plan.seen_before() == []


def row(name: str, value: float, p: float) -> dict[str, Any]:
    beside = {"keys": 60, "value": value, "low": value - 0.1, "high": value + 0.1, "p": p}
    beside |= {"won": 9, "lost": 1, "p_holm": p}
    return {"name": name, "success_beside": {"control": beside}, "loss_beside": {}}


@pytest.mark.parametrize(
    ("value", "p", "told", "success"),
    [
        (0.3, 0.001, "ours is shown to be better", True),
        (-0.3, 0.001, "ours is shown to be worse", False),
        (0.3, 0.2, "no difference is shown of ours", False),  # after Holm's adjustment
        (0.05, 0.001, "no difference is shown of ours", False),  # the interval holds 0
    ],
)
def test_the_verdict_claims_what_interval_and_test_show(
    value: float, p: float, told: str, success: bool
) -> None:
    rows = [row("original", 0, 1), row("re-projected", 0, 1), row("ours", value, p)]
    found = {"suite": "reach", "models": [{"name": "m", "rows": rows}], "budget": {"seeds": 1}}
    said = verdict(found)
    assert said["sentence"] == f"m, success beside the control: {told}."
    assert said["success"] is success
    assert any("other trainings" in line for line in said["details"])


def test_eyes_that_are_untrained_are_no_success() -> None:
    rows = [row("original", 0, 1), row("re-projected", 0, 1), row("untrained", 0.3, 0.001)]
    found = {"suite": "reach", "models": [{"name": "m", "rows": rows}], "budget": {"seeds": 3}}
    said = verdict(found)
    assert "untrained is shown to be better" in said["sentence"]
    assert said["success"] is False
