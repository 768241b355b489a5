import json
from pathlib import Path

import torch

from saccade.train.cost import flops_per_sample
from tests.train import toy


def test_matrix_products_by_hand() -> None:
    """48 to 16 and back: two products forward; backward two of the head, one of the first layer."""
    objective = toy.shift()
    clip = toy.clip_of(list(range(6)))
    assert flops_per_sample(objective, clip) == 2 * 48 * 16 * (2 + 2 + 1)
    assert all(parameter.grad is None for parameter in objective.parameters())
    assert objective.training


def test_counting_changes_no_number(tmp_path: Path) -> None:
    objective = toy.shift()
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    flops_per_sample(objective, toy.clip_of([1, 2]))
    assert all(torch.equal(before[name], value) for name, value in objective.state_dict().items())
    toy.run(tmp_path, samples=16)
    last = json.loads((tmp_path / "timing.jsonl").read_text().splitlines()[-1])
    assert last["teraflops"] == last["samples_per_second"] * 7680 / 1e12
