"""How features are spread over samples: the numbers that show a collapse.

Effective rank is the exponential of the entropy of the normalised singular values of centred
features (Roy and Vetterli, 2007; as a monitor: RankMe, https://arxiv.org/abs/2210.02885). It takes
one decomposition of all samples: some thousand of them say as much as all.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def effective_rank(z: Float[Tensor, "b d"]) -> Float[Tensor, ""]:
    """Return the number of directions that features vary in: 1 is a line, min(b, d) the most."""
    values = torch.linalg.svdvals(z - z.mean(0))
    return torch.special.entr(values / values.sum().clamp_min(1e-30)).sum().exp()


def spread(samples: Float[Tensor, "b d"]) -> dict[str, float]:
    """Describe how features differ between samples.

    ``std`` is the standard deviation over samples as a share of the features' own size, so it
    lies in [0, 1] at any scale; ``cosine`` is the mean over pairs, of the features as they are.
    """
    samples = samples.double()
    count = len(samples)
    size = samples.square().mean().sqrt().clamp_min(1e-30)
    unit = F.normalize(samples, dim=1)
    pairs = unit.sum(0).square().sum() - unit.square().sum()
    return {
        "std": float((samples - samples.mean(0)).square().mean().sqrt() / size),
        "effective_rank": float(effective_rank(samples)),
        "cosine": float(pairs / max(count * (count - 1), 1)),
    }


def feature_norms(samples: Float[Tensor, "b d"]) -> dict[str, float]:
    """Describe how large features are.

    ``norm`` is the mean length of a sample's vector and ``norm_std`` how lengths differ between
    samples; ``feature_std`` is the mean over features of their deviation between samples.
    """
    samples = samples.double()
    lengths = samples.norm(dim=1)
    return {
        "norm": float(lengths.mean()),
        "norm_std": float(lengths.std(correction=0)),
        "feature_std": float(samples.std(0, correction=0).mean()),
    }
