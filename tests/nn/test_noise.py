import torch

from saccade.nn.noise import hash64, uniform


def test_the_mixer_is_splitmix64() -> None:
    """First outputs of the reference generator from state 0 (Vigna's splitmix64.c)."""
    known = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert [value % 2**64 for value in hash64(torch.arange(3)).tolist()] == known


def test_a_sample_has_the_same_numbers_in_any_batch() -> None:
    keys = torch.tensor([5, -7, 2**62])
    whole = uniform(keys, 100, stream=1)
    assert torch.equal(whole[1:2], uniform(keys[1:2], 100, stream=1))
    assert torch.equal(whole[:, :10], uniform(keys, 10, stream=1))


def test_numbers_are_uniform_and_streams_are_independent() -> None:
    a, b = (uniform(torch.arange(200), 100, stream).flatten() for stream in (0, 1))
    assert 0 <= a.min() <= a.max() < 1
    counts = torch.histc(a, bins=20, min=0, max=1)
    assert ((counts - 1000) ** 2 / 1000).sum() < 43.8  # chi-squared, 19 degrees, p = 0.001
    assert torch.corrcoef(torch.stack([a, b]))[0, 1].abs() < 0.03
