from itertools import islice

import pytest
import torch
from torch.utils.data._utils.pin_memory import pin_memory

from saccade.data.loader import Loader
from saccade.data.packing import ALIGNED, Packed, packed
from saccade.data.synthetic import SyntheticConfig
from saccade.data.windows import PairWindow
from saccade.types import Clip


def clip(views: int = 2, batch: tuple[int, ...] = (3,)) -> Clip:
    """Sizes that divide by nothing, so that a place that is one byte off shows."""
    draw = torch.Generator().manual_seed(0)
    return {
        "video": torch.randint(256, (*batch, 3, views, 3, 7, 5), generator=draw).to(torch.uint8),
        "state": torch.randn(*batch, 3, 5, generator=draw),
        "action": torch.randn(*batch, 7, 3, generator=draw),
        "is_pad": torch.rand(*batch, 7, generator=draw) > 0.5,
        "gap": torch.randint(9, batch, generator=draw),
        "episode": torch.randint(9, batch, generator=draw),
        "key": torch.randint(2**62, batch, generator=draw),
        "text": ["push", "pull", "open"] if batch else "push",
        "features": torch.randn(*batch, 3, 4, 5, generator=draw).to(torch.bfloat16),
    }


def tensors(one: Clip) -> dict[str, torch.Tensor]:
    return {name: value for name, value in one.items() if isinstance(value, torch.Tensor)}


@pytest.mark.parametrize("one", [clip(), clip(views=0), clip(batch=())])
def test_what_comes_out_is_what_went_in(one: Clip) -> None:
    found = packed(one).open()
    assert set(found) == set(one)
    assert found["text"] == one["text"]
    for name, value in tensors(one).items():
        assert tensors(found)[name].dtype == value.dtype
        assert torch.equal(tensors(found)[name], value), name


def test_every_tensor_is_a_view_at_a_multiple_of_the_alignment() -> None:
    whole = packed(clip())
    for value in tensors(whole.open()).values():
        assert value.untyped_storage().data_ptr() == whole.storage.untyped_storage().data_ptr()
        assert value.is_contiguous()
        assert value.storage_offset() * value.element_size() % ALIGNED == 0


def test_tensors_do_not_overlap() -> None:
    found, before = tensors(packed(clip()).open()), tensors(clip())
    found["state"].fill_(7.0)
    assert [name for name in before if not torch.equal(found[name], before[name])] == ["state"]


def test_it_survives_the_way_into_pinned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's thread takes what a worker gives apart; only a GPU's driver is stood in for."""
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self, device=None: self.clone())
    found = pin_memory(packed(clip()))
    assert isinstance(found, Packed)
    before = tensors(clip())
    assert tensors(found.open()).keys() == before.keys()
    assert all(torch.equal(value, before[k]) for k, value in tensors(found.open()).items())
    assert found.open()["text"] == clip()["text"]


def test_a_worker_hands_over_one_storage() -> None:
    data = SyntheticConfig(episodes=4, length=11).build()
    loader = Loader(data, PairWindow(max_gap=3), "front", batch_size=8, workers=1)
    for batch in islice(loader.batches(0), 2):
        values = tensors(batch).values()
        assert len({value.untyped_storage().data_ptr() for value in values}) == 1
