"""One seed is one run: bit for bit here, and close to what another machine wrote down."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.train import toy

GOLDEN = Path(__file__).parent / "golden.json"  # losses of steps 1 to 100, written by this file
CLOSE = {"float32": 1e-4, "bfloat16": 2e-2}  # of other processors, whose kernels round otherwise


def losses(run_dir: Path, precision: Any) -> tuple[bytes, list[float]]:
    toy.run(run_dir, samples=800, precision=precision, eval_every=50, save_every=100)
    raw = (run_dir / "metrics.jsonl").read_bytes()
    records = map(json.loads, raw.splitlines())
    return raw, [record["train/loss"] for record in records if "train/loss" in record]


@pytest.mark.parametrize("precision", CLOSE)
def test_two_runs_of_one_seed_are_one(tmp_path: Path, precision: str) -> None:
    first, numbers = losses(tmp_path / "first", precision)
    again, _ = losses(tmp_path / "again", precision)
    assert first == again
    assert len(numbers) == 100
    assert numbers == pytest.approx(json.loads(GOLDEN.read_text())[precision], rel=CLOSE[precision])
