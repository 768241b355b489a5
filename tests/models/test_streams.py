from dataclasses import replace

import pytest
import torch

from saccade.errors import ConfigError
from saccade.models.streams import STREAMS, Streams, StreamsConfig, Variant
from saccade.recipes.sizes import Shape
from tests.contracts import check_encoder

TINY = Shape(image_size=32, dim=24, depth=3, heads=2)


@pytest.fixture
def video() -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randint(256, (2, 2, 3, 32, 32), dtype=torch.uint8)


def count(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("variant", STREAMS)
def test_contract(variant: Variant, video: torch.Tensor) -> None:
    encoder = StreamsConfig(variant=variant, **TINY).build()
    check_encoder(encoder, video)
    assert encoder(video).shape == (2, 1, 4, 24 * len(STREAMS[variant]))


def test_base_has_the_published_size_and_shapes() -> None:
    with torch.device("meta"):
        encoder = StreamsConfig().build()
        assert count(encoder) == 186_362_880
        channels = encoder.channels(torch.empty(1, 2, 3, 224, 224, dtype=torch.uint8))
        encoded = encoder.encode(encoder.embed(channels))
    assert {name: tuple(x.shape) for name, x in channels.items()} == {
        "motion": (1, 4, 224, 224),
        "form": (1, 5, 224, 224),
    }
    assert {tuple(x.shape) for x in encoded.tokens.values()} == {(1, 197, 768)}
    assert [tuple(x.shape) for x in encoded.stage_cls["p"]] == [(1, 768)] * 3


def test_a_single_stream_has_no_parameters_of_the_other() -> None:
    names = StreamsConfig(variant="p_only", **TINY).build().state_dict()
    assert not [name for name in names if ".m." in name or "exchange" in name]


def gradient(encoder: Streams, video: torch.Tensor, of: str, at: str) -> float:
    """How strongly the patches of stream ``of`` react to the channels ``at``."""
    channels = {k: v.requires_grad_() for k, v in encoder.channels(video).items()}
    patches = encoder.encode(encoder.embed(channels)).tokens[of][:, 1:]
    (slope,) = torch.autograd.grad(patches.square().sum(), channels[at], allow_unused=True)
    return 0.0 if slope is None else slope.abs().max().item()


def test_the_exchange_is_the_only_way_across(video: torch.Tensor) -> None:
    torch.manual_seed(0)
    with_exchange = StreamsConfig(**TINY).build()
    without = StreamsConfig(variant="no_exchange", **TINY).build()
    for of, at in (("m", "form"), ("p", "motion")):
        assert gradient(with_exchange, video, of, at) > 0
        assert gradient(without, video, of, at) == 0
        assert gradient(without, video, "mp"["mp".index(of)], {"m": "motion", "p": "form"}[of]) > 0


def test_patches_cross_only_after_the_first_exchange(video: torch.Tensor) -> None:
    torch.manual_seed(0)
    encoder = StreamsConfig(**TINY).build()
    channels = encoder.channels(video)
    seen: list[torch.Tensor] = []
    for stage in encoder.stream("m").stages:
        stage.register_forward_hook(lambda _, __, out: seen.append(out[:, 1:]))
    encoder.encode(encoder.embed(channels))
    encoder.encode(encoder.embed({**channels, "form": channels["form"] + 0.5}))
    before, after = seen[:3], seen[3:]
    assert [torch.equal(a, b) for a, b in zip(before, after, strict=True)] == [True, False, False]


def test_the_later_frame_moves_the_motion_channels_only(video: torch.Tensor) -> None:
    encoder = StreamsConfig(**TINY).build()
    changed = video.clone()
    changed[:, 1] = 255 - changed[:, 1]
    a, b = encoder.channels(video), encoder.channels(changed)
    assert torch.equal(a["form"], b["form"])
    assert not torch.equal(a["motion"], b["motion"])


def test_masked_tokens_keep_their_positions(video: torch.Tensor) -> None:
    """Encoding a permutation of the tokens permutes the result: positions travel with them."""
    torch.manual_seed(0)
    encoder = StreamsConfig(**TINY).build()
    tokens = encoder.embed(encoder.channels(video))
    order = torch.tensor([2, 0, 3, 1])
    shuffled = encoder.encode({name: x[:, order] for name, x in tokens.items()})
    straight = encoder.encode(tokens)
    for name, x in straight.tokens.items():
        torch.testing.assert_close(shuffled.tokens[name][:, 1:], x[:, 1:][:, order])


@pytest.mark.parametrize(
    ("wrong", "told"), [({"depth": 4}, "multiple of stages"), ({"image_size": 30}, "patch 16")]
)
def test_wrong_shapes_are_errors(wrong: dict[str, int], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        replace(StreamsConfig(**TINY), **wrong).build()
