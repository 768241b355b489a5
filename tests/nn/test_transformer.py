import pytest
import torch
from torch import nn

from saccade.nn.transformer import Attention, Block


def test_a_block_is_the_stock_pre_norm_layer() -> None:
    """Same function as nn.TransformerEncoderLayer with the same weights, and as many of them."""
    torch.manual_seed(0)
    ours = Block(24, 3)
    stock = nn.TransformerEncoderLayer(24, 3, 96, 0.0, "gelu", batch_first=True, norm_first=True)
    names = {
        "self_attn.in_proj_weight": "attn.qkv.weight",
        "self_attn.in_proj_bias": "attn.qkv.bias",
        "self_attn.out_proj.weight": "attn.proj.weight",
        "self_attn.out_proj.bias": "attn.proj.bias",
        "linear1.weight": "mlp.0.weight",
        "linear1.bias": "mlp.0.bias",
        "linear2.weight": "mlp.2.weight",
        "linear2.bias": "mlp.2.bias",
    }
    weights = {names.get(name, name): value for name, value in stock.state_dict().items()}
    ours.load_state_dict(weights, strict=True)
    x = torch.randn(2, 7, 24)
    torch.testing.assert_close(ours(x), stock(x), rtol=1e-5, atol=1e-5)
    assert sum(p.numel() for p in ours.parameters()) == 12 * 24**2 + 13 * 24


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="not a multiple of heads"):
        Attention(10, 3)
