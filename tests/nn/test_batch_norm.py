from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from saccade.nn.batch_norm import SyncedBatchNorm
from tests.children import CHILDREN


def half(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    torch.manual_seed(0)
    x = torch.randn(8, 3, 4, 4)[rank * 4 : rank * 4 + 4].requires_grad_()
    layer = SyncedBatchNorm(3)
    layer(x).pow(3).sum().backward()
    assert x.grad is not None
    torch.save((x.grad, layer.running_mean, layer.running_var), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_normalise_as_one(tmp_path: Path) -> None:
    ranks = [CHILDREN.Process(target=half, args=(rank, str(tmp_path))) for rank in (0, 1)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(60)
    assert [rank.exitcode for rank in ranks] == [0, 0]
    parts = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    torch.manual_seed(0)
    x, layer = torch.randn(8, 3, 4, 4, requires_grad=True), nn.BatchNorm2d(3)
    layer(x).pow(3).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(torch.cat([p[0] for p in parts]), x.grad, rtol=1e-4, atol=1e-4)
    for part in parts:
        torch.testing.assert_close(part[1], layer.running_mean)
        torch.testing.assert_close(part[2], layer.running_var)
