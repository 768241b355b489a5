"""Adapters leave a run alone, stage by stage, and whoever gets them knows what they are."""

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from saccade.data.synthetic import SyntheticConfig
from saccade.errors import CheckpointError, ConfigError
from saccade.experiments.adapters import export_lora, from_checkpoint, read_run
from saccade.experiments.bundle import manifest
from saccade.experiments.training import with_budget
from saccade.models.lora import (
    LoraConfig,
    add_lora,
    base_digest,
    load_lora,
    lora_state,
    remove_lora,
    save_lora,
)
from saccade.models.vjepa2.predictor import ActionPredictor, ActionPredictorConfig
from saccade.models.world_model import (
    ActionWorldModel,
    PretrainedWorldModelConfig,
)
from saccade.objectives.action_conditioned import ActionConditionedConfig
from saccade.recipes.world_model import debug
from saccade.train import checkpoint

LORA = LoraConfig(rank=2)
WEIGHTS, RECORD = "adapter_model.safetensors", "saccade.json"
STAGES = ["baseline", "step_000002", "step_000004", "best", "final"]


def training(model: Any = None, lora: LoraConfig | None = LORA, **settings: Any) -> Any:
    """Four steps of eight clips, in which two checkpoints are kept."""
    short = with_budget(debug(), samples=32, seed=0)
    assert isinstance(short.objective, ActionConditionedConfig)
    loop = {"eval_every": 2, "save_every": 2, "keep": 4, "log_every": 2} | settings
    return replace(
        short,
        objective=replace(short.objective, model=model or short.objective.model, lora=lora),
        source=replace(short.source, episodes=SyntheticConfig(length=8)),
        train=replace(short.train, **loop),
        eval_samples=8,
    )


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world model as a folder. Read only."""
    folder = tmp_path_factory.mktemp("models") / "base"
    torch.manual_seed(5)
    training().objective.model.build().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def run(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that trained adapters on it. Read only."""
    folder = tmp_path_factory.mktemp("runs") / "lora"
    training(PretrainedWorldModelConfig(folder=base)).run(folder)
    return folder


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on a base that no folder holds. Read only."""
    folder = tmp_path_factory.mktemp("runs") / "drawn"
    training().run(folder)
    return folder


@pytest.fixture(scope="module")
def exported(run: Path) -> Path:
    """What is exported of it. Read only."""
    export_lora(read_run(run), run.parent / "shared" / "adapters")
    return run.parent / "shared" / "adapters"


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    """The run, to be damaged."""
    shutil.copytree(run, tmp_path / "run")
    return tmp_path / "run"


def record(folder: Path) -> dict[str, Any]:
    return json.loads((folder / RECORD).read_text())


def metrics(run: Path) -> dict[int, dict[str, float]]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return {line["step"]: line for line in map(json.loads, lines)}


def predicted(predictor: Any) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(1, 2, 16, 48, generator=generator)
    action, state = torch.rand(2, 1, 2, 4, generator=generator)
    with torch.no_grad():
        return predictor.eval()(features, action, state)


def test_each_stage_is_a_folder_that_the_base_accepts(base: Path, exported: Path) -> None:
    model = ActionWorldModel.from_pretrained(base)
    before, seen = predicted(model.predictor), []
    assert [name for name in STAGES if (exported / name).is_dir()] == STAGES
    for name in STAGES:
        load_lora(exported / name, model.predictor)
        seen.append(predicted(model.predictor))
        remove_lora(model.predictor)
    assert torch.equal(seen[0], before), "the baseline computes what the base does"
    assert not torch.equal(seen[1], before)
    assert not torch.equal(seen[2], seen[1])
    assert torch.equal(seen[4], seen[2]), "the last checkpoint is the end"


def test_what_a_checkpoint_gives_is_what_training_saved(run: Path, exported: Path) -> None:
    for name in ("step_000004", "final"):
        saved = (run / "adapters" / WEIGHTS).read_bytes()
        assert (exported / name / WEIGHTS).read_bytes() == saved
        told = (run / "adapters" / "adapter_config.json").read_bytes()
        assert (exported / name / "adapter_config.json").read_bytes() == told
    best = (run / "best" / "adapters" / WEIGHTS).read_bytes()
    assert (exported / "best" / WEIGHTS).read_bytes() == best


def test_the_base_of_a_checkpoint_is_known_without_the_network(base: Path, run: Path) -> None:
    predictor = ActionWorldModel.from_pretrained(base).predictor
    found = from_checkpoint(checkpoint.folder_of(run, 2))
    assert found.base == base_digest(predictor) == record(run / "adapters")["base"]
    add_lora(predictor, LORA)
    shapes = {name: value.shape for name, value in lora_state(predictor).items()}
    assert {name: value.shape for name, value in found.adapters.items()} == shapes


def test_a_record_says_where_a_stage_comes_from_and_what_it_scored(
    run: Path, exported: Path
) -> None:
    seen = metrics(run)
    for name, step in (("baseline", 0), ("step_000002", 2), ("final", 4)):
        told = record(exported / name)
        assert (told["stage"], told["step"], told["samples"]) == (name, step, 8 * step)
        for score in ("loss", "copy", "shuffled_actions"):
            assert told["held_out"][score] == seen[step][f"eval/{score}"]
            assert told["before"][score] == seen[0][f"eval/{score}"]
        assert told["held_out_clips"] == 8
        assert told["settings"] == json.loads((run / "experiment.json").read_text())
        assert told["lora"]["rank"] == 2
        assert (told["tensors"], told["base"]) == (16, record(run / "adapters")["base"])
        identity = json.loads((checkpoint.folder_of(run, 2) / "state.json").read_text())["identity"]
        assert told["data"] == identity["data"]
    assert (
        record(exported / "best")["step"]
        == json.loads((run / "result.json").read_text())["best_step"]
    )


def test_a_step_that_was_not_scored_says_so(copy: Path, tmp_path: Path) -> None:
    lines = (copy / "metrics.jsonl").read_text().splitlines()
    kept = [line for line in lines if json.loads(line)["step"] != 2]
    (copy / "metrics.jsonl").write_text("\n".join(kept))
    stages = export_lora(read_run(copy), tmp_path / "out")
    scored = {stage.name: stage.held_out is not None for stage in stages}
    assert scored == {name: name != "step_000002" for name in STAGES}
    assert record(tmp_path / "out" / "step_000002")["held_out"] is None
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| `step_000002` | 2 | 16 | not scored | not scored | not scored |" in card


def test_the_manifest_lists_every_other_file(exported: Path) -> None:
    told, found = json.loads((exported / "manifest.json").read_text()), manifest(exported)
    del found["files"]["manifest.json"]
    assert told == found
    assert len(told["files"]) == 3 * len(STAGES) + 2


def code_of(card: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", card, re.DOTALL)


def test_the_code_of_the_card_runs_as_it_stands(
    exported: Path, run: Path, base: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(exported)
    known: dict[str, Any] = {}
    for block in code_of((exported / "README.md").read_text()):
        exec(block, known)
    assert known["record"]["step"] == 4
    assert "16 tensors," in capsys.readouterr().out
    assert isinstance(known["predictor"], PeftModel)
    expected = ActionWorldModel.from_pretrained(base).predictor
    load_lora(exported / "final", expected)
    assert torch.equal(predicted(known["predictor"]), predicted(expected))


def test_the_card_tells_scores_beside_their_floors(exported: Path, run: Path) -> None:
    card, seen = (exported / "README.md").read_text(), metrics(run)
    for name, step in (("baseline", 0), ("step_000002", 2), ("final", 4)):
        row = [f"{seen[step][f'eval/{n}']:.4g}" for n in ("loss", "copy", "shuffled_actions")]
        assert f"| `{name}` | {step} | {8 * step} | {' | '.join(row)} |" in card
    assert "held-out clips (at most 8," in card
    assert "without intervals" in card
    assert "scale 32 / sqrt(2)" in card


def test_a_base_that_was_drawn_is_drawn_again(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_lora(read_run(drawn), tmp_path / "out")
    monkeypatch.chdir(tmp_path / "out")
    known: dict[str, Any] = {}
    for block in code_of((tmp_path / "out" / "README.md").read_text()):
        exec(block, known)  # refuses another base
    assert known["record"]["stage"] == "final"


def test_a_base_of_another_machine_is_looked_for_beside(copy: Path, tmp_path: Path) -> None:
    settings = json.loads((copy / "experiment.json").read_text())
    settings["objective"]["model"]["folder"] = {"path": "/models/elsewhere"}
    (copy / "experiment.json").write_text(json.dumps(settings))
    export_lora(read_run(copy), tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "base = Path('base')  # put or link the base here" in card


def no_adapters(run: Path) -> None:
    settings = json.loads((run / "experiment.json").read_text())
    settings["objective"]["lora"] = None
    (run / "experiment.json").write_text(json.dumps(settings))


def another_rank(run: Path) -> None:
    model = ActionWorldModel.from_pretrained(
        Path(
            json.loads((run / "experiment.json").read_text())["objective"]["model"]["folder"][
                "path"
            ]
        )
    )
    add_lora(model.predictor, LoraConfig(rank=3))
    save_lora(run / "best" / "adapters", model.predictor, LoraConfig(rank=3), {})


def cut(run: Path) -> None:
    file = checkpoint.folder_of(run, 2) / "objective.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("spoil", "error", "told"),
    [
        (lambda run: (run / "experiment.json").unlink(), ConfigError, "no experiment.json; give"),
        (no_adapters, ConfigError, "was trained without adapters"),
        (lambda run: (run / "result.json").unlink(), CheckpointError, "has not ended; .* --resume"),
        (lambda run: shutil.rmtree(run / "adapters"), CheckpointError, "holds no adapters of ours"),
        (lambda run: (run / "metrics.jsonl").write_text("{"), CheckpointError, "cannot be read"),
        (another_rank, CheckpointError, "16 tensors, the run's adapters 16; 16 differ"),
        (cut, CheckpointError, r"objective\.safetensors has \d+ bytes"),
    ],
)
def test_what_is_no_whole_run_of_adapters_is_refused(
    copy: Path, tmp_path: Path, spoil: Callable[[Path], None], error: type[Exception], told: str
) -> None:
    spoil(copy)
    with pytest.raises(error, match=told):
        export_lora(read_run(copy), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out*"))


def test_a_checkpoint_of_another_base_is_refused(copy: Path, drawn: Path, tmp_path: Path) -> None:
    place = checkpoint.folder_of(copy, 2)
    shutil.rmtree(place)
    shutil.copytree(checkpoint.folder_of(drawn, 2), place)
    with pytest.raises(CheckpointError, match=r"step-00000002 was trained on the network \w{16}, "):
        export_lora(read_run(copy), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_base_that_was_changed_since_is_refused(copy: Path, base: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "base")
    settings = json.loads((copy / "experiment.json").read_text())
    settings["objective"]["model"]["folder"] = {"path": str(tmp_path / "base")}
    (copy / "experiment.json").write_text(json.dumps(settings))
    weights = load_file(tmp_path / "base" / "model.safetensors")
    weights["predictor_norm.weight"] += 1
    save_file(weights, tmp_path / "base" / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"holds the network \w{16}, but the adapters were"):
        export_lora(read_run(copy), tmp_path / "out")


def test_a_folder_with_files_is_left_alone(run: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    with pytest.raises(ConfigError, match="holds files already"):
        export_lora(read_run(run), tmp_path)
    assert os.listdir(tmp_path) == ["mine"]


def test_the_full_size(tmp_path: Path) -> None:
    """192 tensors of 6,291,456 numbers: 25 MB in float32, as in V-JEPA 2-AC's 24 blocks."""
    with torch.device("meta"):
        predictor = ActionPredictorConfig().build()
        add_lora(predictor, LoraConfig())
    learned = {n: p for n, p in predictor.named_parameters() if p.requires_grad}
    assert len(learned) == 192
    assert sum(p.numel() for p in learned.values()) == 6_291_456
    assert sum(p.numel() * p.element_size() for p in learned.values()) == 25_165_824
    thin = ActionPredictorConfig(grid=(1, 1), feature_dim=6, dim=6, depth=24, heads=1, mlp=8)
    network = thin.build()
    assert isinstance(network, ActionPredictor)
    torch.manual_seed(0)
    add_lora(network, LoraConfig(rank=1))
    save_lora(tmp_path, network, LoraConfig(rank=1), {})
    remove_lora(network)
    assert load_lora(tmp_path, network)["tensors"] == 192
