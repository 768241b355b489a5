import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from saccade.errors import ConfigError
from saccade.train import checkpoint
from saccade.train.distributed import Ranks
from saccade.train.layout import blank_twin, blocks, kept_elsewhere, spread
from saccade.types import Encoder
from tests.train import toy
from tests.train.test_distributed import ranks_of


def lines(run_dir: Path) -> list[dict[str, float]]:
    return [json.loads(text) for text in (run_dir / "metrics.jsonl").read_text().splitlines()]


def same(run_dir: Path, other: Path) -> None:
    for a, b in zip(lines(run_dir), lines(other), strict=True):
        assert a.keys() == b.keys()
        assert list(a.values()) == pytest.approx(list(b.values()), rel=1e-6), a["step"]


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train in one process."""
    run_dir = tmp_path_factory.mktemp("one")
    assert ranks_of(run_dir, 1) == [0]
    assert len(lines(run_dir)) == 13
    return run_dir


@pytest.mark.parametrize(
    ("world", "settings"),
    [
        (2, {}),
        (2, {"layout": "fsdp"}),
        (2, {"layout": "fsdp", "checkpoint_activations": True}),
        (4, {"layout": "hsdp", "replicas": 2}),
    ],
)
def test_several_ranks_train_like_one(
    tmp_path: Path, one: Path, world: int, settings: dict[str, Any]
) -> None:
    assert ranks_of(tmp_path / "run", world, **settings) == [0] * world
    same(tmp_path / "run", one)
    last = checkpoint.folder_of(one, 12)
    mine, theirs = (
        checkpoint.read(checkpoint.folder_of(run, 12)) for run in (tmp_path / "run", one)
    )
    assert mine.objective.keys() == theirs.objective.keys()
    assert mine.optimizer.keys() == theirs.optimizer.keys()
    for name, value in theirs.objective.items():
        torch.testing.assert_close(mine.objective[name], value, rtol=1e-5, atol=1e-7, msg=name)
    Encoder.from_pretrained(tmp_path / "run" / "encoder")
    assert last.exists()


def test_a_run_goes_on_with_other_numbers_of_ranks_and_layouts(tmp_path: Path, one: Path) -> None:
    run = tmp_path / "run"
    for step, world, layout in ((3, 2, "fsdp"), (5, 1, "ddp"), (8, 4, "fsdp"), (0, 2, "ddp")):
        fault = f"step:term@step={step},rank=0" if step else ""
        assert ranks_of(run, world, fault=fault, layout=layout) == [75 if step else 0] * world
        if step:
            last = checkpoint.folder_of(run, step)
            parts = world if layout == "fsdp" else 1
            assert len(list(last.glob("o*.safetensors"))) == 2 * parts
    same(run, one)
    assert checkpoint.read(checkpoint.folder_of(run, 12)).state["world"] == 2


@pytest.mark.parametrize(
    ("fault", "codes", "told"),
    [
        ("save.shard:kill9@step=6,rank=1,call=2", [1, -9], "rank 0 of 2 lost another one"),
        ("write.data:raise=ENOSPC@rank=1,call=3,file=optimizer", [5, 5], "No space left"),
        ("write.synced:raise=EIO@rank=1,call=3,file=optimizer", [4, 4], "Input/output error"),
    ],
)
def test_a_rank_that_cannot_write_leaves_no_half_checkpoint(
    tmp_path: Path, one: Path, fault: str, codes: list[int], told: str
) -> None:
    run, settings = tmp_path / "run", {"layout": "fsdp", "save_every": 3, "eval_every": 99}
    assert ranks_of(run, 2, fault=fault, **settings) == codes
    assert told in (run / "error-0.txt").read_text()
    assert checkpoint.steps(run) == [3] if "kill9" in fault else [3, 6]
    checkpoint.verify(checkpoint.folder_of(run, checkpoint.steps(run)[-1]))
    assert ranks_of(run, 1, eval_every=99, save_every=3) == [0]
    assert [line["train/loss"] for line in lines(run) if "train/loss" in line] == pytest.approx(
        [line["train/loss"] for line in lines(one) if "train/loss" in line], rel=1e-6
    )


def test_blocks_are_the_elements_of_lists_of_layers() -> None:
    deep = toy.Deep()
    deep.nested = nn.ModuleList([nn.ModuleList([nn.Linear(2, 2)]), nn.Sequential(nn.Linear(2, 2))])
    deep.frozen = nn.ModuleList([nn.Linear(2, 2).requires_grad_(False)])
    inner, outer = deep.nested
    assert isinstance(inner, nn.ModuleList)
    assert set(blocks(deep)) == {*deep.layers, outer, *inner}


def test_a_twin_has_no_weights_and_the_same_buffers() -> None:
    deep = toy.Deep()
    deep.register_buffer("seen", torch.zeros(3))
    twin = blank_twin(deep)
    assert all(parameter.is_meta for parameter in twin.parameters())
    assert twin.get_buffer("seen") is deep.get_buffer("seen")
    assert not next(deep.parameters()).is_meta


def test_what_no_checkpoint_holds_is_not_sharded() -> None:
    deep = toy.Deep()
    assert kept_elsewhere(deep) == set()
    deep.left_out = ("encoder",)
    assert kept_elsewhere(deep) == set(deep.encoder.parameters())


def test_ranks_must_divide_into_the_groups() -> None:
    ranks = Ranks(0, 4, torch.device("cpu"))
    with pytest.raises(ConfigError, match="4 processes do not divide into 3 groups"):
        spread(toy.Deep(), ranks, "hsdp", 3)


def test_one_process_may_recompute_its_blocks(tmp_path: Path, one: Path) -> None:
    settings = {"accumulate": 2, "checkpoint_activations": True}
    deep = toy.Deep()
    deep.unused = nn.Linear(2, 2)
    toy.run(tmp_path, deep, **settings)
    assert (tmp_path / "metrics.jsonl").read_bytes() == (one / "metrics.jsonl").read_bytes()
