"""Cells are kept by their settings, failures stay alone, and rows say cell minus base."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from saccade.data.passes.shards import Shard
from saccade.errors import ConfigError, NumericError
from saccade.evals.probe import ProbeConfig
from saccade.experiments.ablation import FAILED, RECORD, Ablation, ablation_rows, attempt
from saccade.experiments.cells import Axis, Cell, choose, differences, grid
from saccade.experiments.comparison import Method
from saccade.experiments.training import Training, with_budget
from saccade.recipes import ablations, two_stream, video_mae, world_model
from saccade.report.results import check_results

PROBE = ProbeConfig(gaps=(1,), stride=8, resamples=20)
BASE = Method(name="mae", recipe="video_mae:debug", training=with_budget(video_mae.debug(), 16, 0))


def set_ratio(training: Training, value: str) -> Training:
    objective = replace(training.objective, mask_ratio=float(value))  # pyright: ignore
    return replace(training, objective=objective)


def set_rate(training: Training, value: str) -> Training:
    return replace(training, train=replace(training.train, lr=float(value)))


def always(training: Training) -> bool:
    return True


def streamed(training: Training) -> bool:
    return training.objective.__class__ is not BASE.training.objective.__class__


RATIO = Axis(
    name="ratio",
    about="Ratio.",
    values=("0.5", "0.75", "0.9"),
    sets=("objective.mask_ratio",),
    applies=always,
    change=set_ratio,
)
ALIAS = replace(RATIO, name="same", values=("0.9",))
RATE = Axis(
    name="rate",
    about="Rate.",
    values=("1e30", "0.01"),
    sets=("train.lr",),
    applies=always,
    change=set_rate,
)
ELSEWHERE = replace(RATIO, name="elsewhere", applies=streamed)
KNOWN = (RATIO, ALIAS, RATE, ELSEWHERE)


def ablation(*axes: str, base: Method = BASE, full: bool = False, **settings: Any) -> Ablation:
    cells = grid(base, choose(axes, KNOWN, [base], []), full=full)
    given = {"seeds": 1, "probe": PROBE} | settings
    return Ablation(bases=(base,), cells=tuple(cells), **given)


def train_here(plan: Ablation, folder: Path) -> list[str]:
    """Train in this process what ``run`` would train in others; name the runs."""
    waiting = plan.unfinished(plan.comparison(), folder)
    for training, place in waiting.values():
        training.run(place, resume=(place / "experiment.json").exists())
    return list(waiting)


def test_a_value_that_the_base_has_is_no_cell() -> None:
    cells = ablation("ratio").cells
    assert [cell.settings for cell in cells] == [{"ratio": "0.5"}, {"ratio": "0.9"}]
    assert [cell.name for cell in cells] == ["mae mask_ratio=0.5", "mae mask_ratio=0.9"]
    assert cells[0].changes == {"objective.mask_ratio": "0.5"}


def test_cells_of_the_same_settings_are_one_method() -> None:
    plan = ablation("ratio=0.9", "same", "rate=0.01")
    assert [cell.name for cell in plan.cells[:2]] == ["mae mask_ratio=0.9"] * 2
    methods = plan.comparison().methods
    assert [method.name for method in methods] == ["mae", "mae mask_ratio=0.9", "mae lr=0.01"]
    assert methods[1].recipe == "video_mae:debug objective.mask_ratio=0.9"


def test_a_full_grid_combines_values() -> None:
    cells = ablation("ratio=0.5,0.9", "rate=0.01", full=True).cells
    assert len(cells) == 3 * 2 - 1
    assert cells[-1].name == "mae mask_ratio=0.9 lr=0.01"
    assert cells[-1].settings == {"ratio": "0.9", "rate": "0.01"}
    axes = [replace(RATE, name=n, values=tuple(map(str, range(1, 101)))) for n in ("x", "y")]
    with pytest.raises(ConfigError, match="would have 10,201 combinations"):
        grid(BASE, choose(["x", "y"], axes, [BASE], []), full=True)


@pytest.mark.parametrize(
    ("axes", "told"),
    [
        ([], "no axis is named"),
        (["depth"], "no axis 'depth'; the axes are ratio, same, rate, elsewhere"),
        (["ratio", "ratio=0.5"], "ratio is named twice"),
        (["ratio=0.6"], r"ratio cannot be \['0.6'\]; its values are 0.5, 0.75, 0.9"),
        (["elsewhere"], "elsewhere does not exist for mae; big have it"),
    ],
)
def test_an_axis_that_is_not_there_is_refused(axes: list[str], told: str) -> None:
    big = Method(name="big", recipe="", training=two_stream.strong_tiny())
    with pytest.raises(ConfigError, match=told):
        choose(axes, KNOWN, [BASE], [BASE, big])


def test_differences_name_fields_and_classes() -> None:
    before, after = two_stream.debug(), two_stream.debug_original()
    (told,) = differences(before, after)
    assert told[0] == "objective"
    assert told[1].startswith("FuturePixelsConfig encoder ")
    assert told[1].endswith(" width 32")  # the other fields have their defaults
    assert list(differences(before, before)) == []
    assert dict(differences(before, with_budget(before, 64, 3))) == {
        "train.samples": "64",
        "train.seed": "3",
    }


def test_a_cell_of_another_grid_is_not_trained_again(tmp_path: Path) -> None:
    first = ablation("same")
    assert train_here(first, tmp_path) == ["mae, seed 0", "mae mask_ratio=0.9, seed 0"]
    second = ablation("ratio")
    assert list(second.unfinished(second.comparison(), tmp_path)) == ["mae mask_ratio=0.5, seed 0"]
    more = ablation("ratio", seeds=2)
    assert len(more.unfinished(more.comparison(), tmp_path)) == 1 + 3
    other = ablation("same", samples=32)
    with pytest.raises(ConfigError, match="holds a run with other settings"):
        other.run(tmp_path, command="")


def test_shards_are_disjoint_and_make_the_whole(tmp_path: Path) -> None:
    plan = ablation("ratio", "rate=0.01", seeds=2)
    whole = plan.unfinished(plan.comparison(), tmp_path)
    assert len(whole) == 4 * 2
    for count in (1, 2, 3, 4):
        shards = [plan.unfinished(plan.shard(Shard(i, count)), tmp_path) for i in range(count)]
        assert sum(map(len, shards)) == len(whole)
        assert {name: run for shard in shards for name, run in shard.items()} == whole
        assert [list(s) for s in shards] == [
            list(plan.unfinished(plan.shard(Shard(i, count)), tmp_path)) for i in range(count)
        ]
    for number, count in ((4, 5), (7, 9)):
        with pytest.raises(ConfigError, match=f"shard {number}/{count} is empty"):
            plan.shard(Shard(number, count))


def test_what_diverges_or_alarms_is_named_and_the_others_go_on(
    no_page: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (base,) = ablations.bases("two_stream", "strong", "debug")
    base = replace(base, training=with_budget(base.training, 16, 0))
    name, known = base.name, (*ablations.AXES, RATE)
    cells = grid(base, choose(["early_fusion", "m_only", "rate=1e30"], known, [base], []))
    plan = Ablation(bases=(base,), cells=tuple(cells), seeds=1, probe=PROBE)
    assert train_here(plan, tmp_path)[-1] == f"{name} lr=1e+30, seed 0"
    assert "the other cells go on" in capsys.readouterr().err
    note = tmp_path / "train" / "two-stream_strong_lr=1e+30" / "seed-0" / FAILED
    error = json.loads(note.read_text())["error"]
    assert "not finite" in error
    before = [path.stat().st_mtime_ns for path in tmp_path.rglob("metrics.jsonl")]
    record = plan.run(tmp_path, command="saccade ablate")
    assert [path.stat().st_mtime_ns for path in tmp_path.rglob("metrics.jsonl")] == before
    assert json.loads((tmp_path / RECORD).read_text()) == record
    assert record["failed"] == [{"name": f"{name} lr=1e+30", "seed": 0, "error": error}]
    leaks = {
        cell["name"]: [alarm["severity"] for alarm in cell["alarms"] if alarm["name"] == "leak"]
        for cell in record["cells"]
        if cell["runs"] == 1
    }
    assert leaks == {f"{name} variant=early_fusion": ["error"], f"{name} variant=m_only": []}
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["ablation"] == record["rows"]
    check_results(results)
    assert {model["name"] for model in results["models"]} == {name, *leaks}
    position = [p for p in results["paired"] if (p["group"], p["gap"]) == ("position", 1)]
    other = f"{name} variant=m_only"
    (pair,) = (p for p in position if {p["a"], p["b"]} == {name, other})
    asked = {"group": "position", "gap": 1, "cell": other}
    (row,) = (r for r in record["rows"] if asked.items() <= r.items())
    assert (row["axis"], row["value"], row["base"], pair["a"]) == ("m_only", "on", name, name)
    assert row["difference"] == -pair["difference"]


def test_a_base_that_diverges_leaves_nothing_to_compare_with(tmp_path: Path) -> None:
    wild = replace(BASE, training=set_rate(BASE.training, "1e30"))
    plan = ablation("rate=0.01", base=wild)
    train_here(plan, tmp_path)
    with pytest.raises(NumericError, match=r"no base has a result.*mae, seed 0: step"):
        plan.run(tmp_path, command="")


def test_only_pretraining_can_be_a_cell() -> None:
    with pytest.raises(ConfigError, match="WorldModelTraining cannot be a cell"):
        attempt(world_model.debug())


def paired(a: str, b: str, values: tuple[Any, ...], **where: Any) -> dict[str, Any]:
    asked = {"probe": "action", "metric": "r2", "group": "position", "gap": 5, "split": "test"}
    numbers = dict(zip(("difference", "low", "high", "p"), values, strict=True))
    over_all = {"p_holm": 1.0}  # corrected over every pair of the file, floors too: not ours
    return {"a": a, "b": b, **asked, **where, **numbers, **over_all}


def cell(name: str, axis: str, value: str) -> Cell:
    return Cell(name=name, base="base", settings={axis: value}, changes={}, training=BASE.training)


def test_rows_are_cell_minus_base_with_holm_over_distinct_cells() -> None:
    cells = [cell("x", "a", "1"), cell("y", "b", "2"), cell("x", "c", "3"), cell("z", "d", "4")]
    results = {
        "paired": [
            paired("base", "x", (0.1, 0.05, 0.2, 0.01)),
            paired("y", "base", (0.3, 0.1, None, 0.04)),
            paired("x", "y", (9.0, 9.0, 9.0, 0.001)),  # no base in it
            paired("base", "raw pixels", (9.0, 9.0, 9.0, 0.001)),
            paired("base", "z", (None, None, None, None)),
            paired("base", "x", (0.0, -0.1, 0.2, 0.5), split="unseen"),
        ]
    }
    rows = ablation_rows(results, "base", cells)
    assert [(r["split"], r["axis"], r["value"]) for r in rows] == [
        ("test", "a", "1"),
        ("test", "b", "2"),
        ("test", "c", "3"),
        ("test", "d", "4"),
        ("unseen", "a", "1"),
        ("unseen", "c", "3"),
    ]
    first, second, third, last, unseen, _ = rows
    assert (first["difference"], first["low"], first["high"]) == (-0.1, -0.2, -0.05)
    assert (second["difference"], second["low"], second["high"]) == (0.3, 0.1, None)
    assert first["p_holm"] == third["p_holm"] == pytest.approx(0.02)  # two distinct cells
    assert second["p_holm"] == pytest.approx(0.04)
    assert (last["difference"], last["p"], last["p_holm"]) == (None, None, None)
    assert unseen["p_holm"] == 0.5  # a question of its own
    assert {"probe": "action", "metric": "r2", "cell": "x"}.items() < first.items()
    assert ablation_rows(results, "another base", cells) == []
