import pytest
import torch

from saccade.errors import ConfigError
from saccade.models.decoders import PatchDecoder, PixelwiseFusion, UNetDecoder, check_unet
from saccade.models.streams import StreamsConfig


def count(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_published_sizes() -> None:
    with torch.device("meta"):
        assert count(UNetDecoder(768, 512, film=True, skip=True)) == 3_583_715
        single = StreamsConfig(variant="nine_channel").build()
        assert count(single) + count(UNetDecoder(768, 512, film=False, skip=True)) == 90_217_507
        assert count(PatchDecoder(768, 196, 768, 512, 4, 8)) == 13_499_136
        out = UNetDecoder(768, 512, film=False, skip=False)(torch.empty(1, 196, 768), None, None)
    assert out.shape == (1, 3, 224, 224)


def test_a_frame_in_zero_to_one() -> None:
    decoder = UNetDecoder(16, 32, film=True, skip=True)
    cls, now = [torch.randn(2, 16) for _ in range(3)], torch.rand(2, 3, 32, 32)
    frame = decoder(torch.randn(2, 4, 16), cls, now)
    assert frame.shape == (2, 3, 32, 32)
    assert 0 < frame.min() <= frame.max() < 1


def test_every_cls_and_the_skip_change_the_picture() -> None:
    torch.manual_seed(0)
    decoder = UNetDecoder(16, 32, film=True, skip=True).eval()
    patches, now = torch.randn(2, 4, 16), torch.rand(2, 3, 32, 32)
    cls = [torch.randn(2, 16, requires_grad=True) for _ in range(3)]
    frame = decoder(patches, cls, now)
    slopes = torch.autograd.grad(frame.square().sum(), cls)
    assert all(slope.abs().max() > 0 for slope in slopes)
    assert not torch.equal(decoder(patches, cls, 1 - now), frame)


def test_fusion_joins_each_location_by_itself() -> None:
    torch.manual_seed(0)
    fusion = PixelwiseFusion(8, streams=2)
    m, p = torch.randn(1, 5, 8), torch.randn(1, 5, 8)
    moved = m.clone()
    moved[:, 3] += 1
    changed = (fusion([moved, p]) != fusion([m, p])).any(-1)[0]
    assert changed.nonzero().flatten().tolist() == [3]


@pytest.mark.parametrize(("patch", "side"), [(8, 16), (16, 32), (32, 64)])
def test_one_cell_per_patch_becomes_a_frame(patch: int, side: int) -> None:
    decoder = UNetDecoder(16, 64, film=True, skip=True, patch=patch)
    cls, now = [torch.randn(2, 16) for _ in range(3)], torch.rand(2, 3, side, side)
    assert decoder(torch.randn(2, 4, 16), cls, now).shape == (2, 3, side, side)


def test_shapes_it_cannot_draw_are_errors() -> None:
    with pytest.raises(ConfigError, match="not 12"):
        check_unet(patch=12, stages=3, film=True)
    with pytest.raises(ConfigError, match="3 stages"):
        check_unet(patch=16, stages=2, film=True)
    check_unet(patch=16, stages=2, film=False)
