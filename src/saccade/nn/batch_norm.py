"""Batch normalisation over the global batch, on any device.

PyTorch's own ``SyncBatchNorm`` refuses CPUs; without synchronisation one rank and two ranks
would train different models.
"""

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce


class SyncedBatchNorm(nn.BatchNorm2d):
    """``nn.BatchNorm2d`` whose statistics cover the samples of all ranks (of equal size)."""

    def forward(self, input: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Normalise each channel."""
        alone = not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1)
        if alone or not self.training:
            return super().forward(input)
        x, ranks = input.float(), dist.get_world_size()
        sums = torch.stack([x.mean((0, 2, 3)), x.square().mean((0, 2, 3))])
        mean, square = all_reduce(sums) / ranks
        var = square - mean.square()
        with torch.no_grad():
            count = ranks * x.numel() / x.shape[1]
            momentum = self.momentum or 0.1
            assert self.running_mean is not None
            assert self.running_var is not None
            assert self.num_batches_tracked is not None
            self.running_mean.lerp_(mean, momentum)
            self.running_var.lerp_(var * count / (count - 1), momentum)
            self.num_batches_tracked.add_(1)
        scale = self.weight * (var + self.eps).rsqrt()
        shift = self.bias - mean * scale
        return (x * scale[:, None, None] + shift[:, None, None]).to(input.dtype)
