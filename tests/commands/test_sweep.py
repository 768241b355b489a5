import json
from collections.abc import Callable
from pathlib import Path

from saccade.experiments.sweep import Sweep
from saccade.recipes.world_model import debug
from tests.conftest import Outcome

Saccade = Callable[..., Outcome]
ARGS = ["world_model:debug", "--vary", "train.lr=1e-4,1e-2", "train.min-lr=0,1"]


def test_a_dry_run_lists_the_members_and_writes_nothing(saccade: Saccade, tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    done = saccade("sweep", *ARGS, "--out", out, "--train.samples", 16, "--dry-run")
    assert done.code == 0
    assert "lr=1e-4,min_lr=1: " in done.out
    assert "for 2 steps of 8 samples" in done.out
    assert f"would train 4 members in {out}" in done.out
    assert not out.exists()


def test_the_table_is_sorted_and_says_what_it_was_chosen_on(
    saccade: Saccade, tmp_path: Path
) -> None:
    vary = ("train.lr=1e-4,1e-2", "train.samples=16")
    plan = Sweep(recipe="world_model:debug", training=debug(), vary=vary)
    for member, place in plan.unfinished(tmp_path, resume=False).values():
        member.run(place)
    done = saccade("sweep", "world_model:debug", "--vary", *vary, "--out", tmp_path)
    assert done.code == 0
    assert done.out.index("lr=1e-2,samples=16") < done.out.index("lr=1e-4,samples=16")
    assert "x copy" in done.out
    assert "choice among the members" in done.out.replace("\n", " ")
    assert f"results: {tmp_path / 'results.json'}" in done.out
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["command"].startswith("saccade sweep world_model:debug --vary")
    again = saccade("sweep", "world_model:debug", "--vary", *vary, "--out", tmp_path)
    assert again.code == 0
    assert "training" not in again.err


def test_without_a_recipe_or_values_it_teaches(saccade: Saccade, tmp_path: Path) -> None:
    assert saccade("sweep").code == 2
    done = saccade("sweep", "--help")
    assert done.code == 0
    assert "usage: saccade sweep RECIPE --vary" in done.out
    assert saccade("sweep", "world_model:debug", "--out", tmp_path).code == 2
