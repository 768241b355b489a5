import pytest
import torch

from saccade.nn.masking import fill, random_mask, take, tube_mask

KEYS = torch.arange(5) * 1000


@pytest.mark.parametrize(("ratio", "hidden"), [(0.9, 176), (0.75, 147), (0.0, 0)])
def test_exactly_the_share_is_hidden(ratio: float, hidden: int) -> None:
    mask = random_mask(KEYS, 196, ratio)
    assert mask.hide.shape == (5, hidden)
    both = torch.cat([mask.keep, mask.hide], dim=1).sort(1).values
    assert torch.equal(both, torch.arange(196).expand(5, 196))


def test_masks_belong_to_samples_and_streams() -> None:
    mask = random_mask(KEYS, 50, 0.5)
    assert torch.equal(mask.hide[3:], random_mask(KEYS[3:], 50, 0.5).hide)
    assert not torch.equal(mask.hide[0], mask.hide[1])
    assert not torch.equal(mask.hide, random_mask(KEYS, 50, 0.5, stream=1).hide)


def test_a_tube_hides_the_same_patches_at_every_step() -> None:
    mask = tube_mask(KEYS, steps=4, tokens=10, ratio=0.9)
    hidden = mask.hide.view(5, 4, 9)
    assert torch.equal(hidden // 10, torch.arange(4)[:, None].expand(5, 4, 9))
    assert all(torch.equal(hidden[:, 0], hidden[:, u] - 10 * u) for u in range(4))


def test_fill_puts_tokens_back() -> None:
    x = torch.randn(5, 12, 3)
    mask = random_mask(KEYS, 12, 0.5)
    back = fill(take(x, mask.keep), mask, torch.full((3,), 9.0))
    torch.testing.assert_close(take(back, mask.keep), take(x, mask.keep))
    assert take(back, mask.hide).eq(9).all()
