"""A sweep trains every combination once, keeps what is done, and says on what it chose."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from saccade.errors import ConfigError
from saccade.experiments.sweep import Sweep, changed, grid, seconds
from saccade.experiments.training import with_budget
from saccade.models.lora import LoraConfig
from saccade.objectives.action_conditioned import ActionConditionedConfig
from saccade.recipes import vjepa2_ac, world_model

BASE = with_budget(vjepa2_ac.debug(), samples=16, seed=0)
PLAIN = with_budget(world_model.debug(), samples=16, seed=0)
SWEEP = Sweep(recipe="world_model:debug", training=PLAIN, vary=("train.lr=1e-5,1e-2",))


def test_values_are_read_as_the_type_of_their_field() -> None:
    members = grid(BASE, ["objective.lora.rank=4,16", "train.lr=1e-5,1e-4,1e-3"])
    assert len(members) == 6
    assert members[1].name == "rank=4,lr=1e-4"
    assert members[1].settings == {"objective.lora.rank": "4", "train.lr": "1e-4"}
    objective = members[1].training.objective
    assert isinstance(objective, ActionConditionedConfig)
    assert objective.lora == LoraConfig(rank=4)
    assert members[1].training.train == replace(BASE.train, lr=1e-4)
    for path, text, value in (
        ("objective.lora", "None", None),
        ("objective.truncate", "True", True),
        ("train.schedule", "cosine", "cosine"),
        ("window.num_frames", "3", 3),
        ("source.cache", "here/there", "here/there"),
    ):
        found = changed(BASE, path, text)
        for name in path.split("."):
            found = getattr(found, name)
        assert found == value
        assert type(found) is type(value)


def test_names_are_places_of_their_own() -> None:
    names = [m.name for m in grid(BASE, ["train.batch-size=4,8", "source.cache=a/b"])]
    assert names == ["batch_size=4,cache=a_b", "batch_size=8,cache=a_b"]
    same = grid(BASE, ["train.seed=1", "source.split_seed=2"])
    assert same[0].name == "seed=1,split_seed=2"
    longer = grid(BASE, ["objective.lora.dropout=0", "objective.model.predictor.dim=64"])
    assert longer[0].name == "dropout=0,dim=64"


@pytest.mark.parametrize(
    ("vary", "told"),
    [
        ([], "nothing is to vary"),
        (["train.lr"], "not of the form"),
        (["train.lr=1,1"], "each field and value once"),
        (["train.lr=1", "train.lr=2"], "each field and value once"),
        (["train.lr=1,"], "not of the form"),
        (["train.rate=1"], "TrainConfig has no field 'rate'; it has .*'lr'"),
        (["train.lr.x=1"], "has no field 'x'"),
        (["train.lr=fast"], r"lr cannot be 'fast'; it is one of \['float'\]"),
        (["train.schedule=step"], "'step'; it is one of .*'cosine', 'wsd'"),
        (["train.betas=1"], "betas is no single value"),
        (["objective.lora=4"], r"lora cannot be '4'; it is one of \['None'\]"),
    ],
)
def test_what_cannot_vary_is_refused(vary: list[str], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        grid(BASE, vary)


def test_members_are_trained_once_and_ranked_on_select_episodes(tmp_path: Path) -> None:
    for training, place in SWEEP.unfinished(tmp_path, resume=False).values():
        training.run(place)  # here, for a process of its own takes seconds
    results = SWEEP.run(tmp_path, command="saccade sweep")
    assert json.loads((tmp_path / "results.json").read_text()) == results
    assert results["kind"] == "sweep"
    losses = [member["loss"] for member in results["members"]]
    assert losses == sorted(losses)
    assert results["best"] == results["members"][0]["name"] == "lr=1e-2"
    assert "`select` episodes" in results["about"]
    assert results["data"]["select_episodes"] > 0
    for member in results["members"]:
        scores = json.loads((tmp_path / member["folder"] / "result.json").read_text())["scores"]
        assert member["ratio"] == pytest.approx(member["loss"] / member["baseline_loss"])
        assert member["shuffled_ratio"] * member["loss"] == pytest.approx(
            scores["eval/shuffled_actions"]
        )
        assert (member["steps"], member["samples"]) == (2, 16)
        assert member["seconds"] > 0
    assert SWEEP.unfinished(tmp_path, resume=False) == {}


def test_unfinished_members_go_on_only_when_told(tmp_path: Path) -> None:
    place = tmp_path / "lr=1e-5"
    members = {member.name: member for member in SWEEP.members()}
    members["lr=1e-5"].training.run(place)
    (place / "result.json").unlink()
    with pytest.raises(ConfigError, match="not finished; --resume goes on"):
        SWEEP.unfinished(tmp_path, resume=False)
    assert list(SWEEP.unfinished(tmp_path, resume=True)) == ["lr=1e-5", "lr=1e-2"]
    other = replace(SWEEP, training=with_budget(PLAIN, samples=24, seed=0))
    with pytest.raises(ConfigError, match="other settings"):
        other.unfinished(tmp_path, resume=True)


def test_the_time_of_a_resumed_run_is_that_of_all_its_processes(tmp_path: Path) -> None:
    clock = tmp_path / "timing.jsonl"
    lines = [{"step": i, "seconds": s} for i, s in enumerate((1.0, 5.0, 2.0, 3.5))]
    clock.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert seconds(clock) == 8.5
