"""Small policies, and batches of a toy in which pictures and instruction decide."""

from dataclasses import replace

import torch
from torch import Tensor

from saccade.data.loader import fixed_batches
from saccade.data.synthetic_reach import ReachConfig
from saccade.data.windows import ChunkWindow, Window
from saccade.models.language import HashLanguageConfig
from saccade.models.policies.conditions import StateConditionConfig
from saccade.models.policies.flow import FlowHeadConfig
from saccade.models.policies.head import Condition, HeadConfig, Sizes
from saccade.models.policies.policy import ImitationPolicy, ImitationPolicyConfig
from saccade.models.policies.visual import VisualConditionConfig
from saccade.models.state_encoder import StateEncoderConfig
from saccade.models.vit import ViTConfig
from saccade.types import Clip, Contract, Observation

NAMES = ("x", "y", "z", "rx", "ry", "rz", "gripper")
STATES = ("x", "y", "z", "gripper")
CAMERAS = ("agentview", "wrist")
CHUNK = 4
MEAN = torch.tensor([0.1, -0.2, 0.0, 0.0, 0.0, 0.0, 0.5])
STD = torch.tensor([0.6, 0.5, 0.3, 1.0, 1.0, 1.0, 0.5])
ENCODER = StateEncoderConfig(
    language=HashLanguageConfig(dim=16),
    image_size=32,
    patch=8,
    state_size=4,
    dim=32,
    depth=2,
    d_state=4,
    modality_std=0.02,
)
STATE = StateConditionConfig(encoder=ENCODER)
EYES = ViTConfig(image_size=32, num_frames=1, tubelet=1, patch=8, dim=24, depth=1, heads=2)
VISUAL = VisualConditionConfig(
    encoder=EYES,
    language=HashLanguageConfig(dim=16),
    state_size=4,
    dim=32,
    depth=2,
    heads=2,
    hidden=64,
)
FLOW = FlowHeadConfig(dim=32, depth=2, state=4, hidden=32, heads=2)
POLICY = ImitationPolicyConfig(condition=STATE, head=FLOW, chunk=CHUNK)
CONTRACT = Contract(
    cameras=CAMERAS,
    frame_size=(32, 32),
    image_size=32,
    state_names=STATES,
    action_names=NAMES,
    fps=20.0,
    chunk=CHUNK,
)


def batch(size: int = 8, window: Window | None = None, seed: int = 0) -> Clip:
    """Read some samples of both cameras."""
    window = window or ChunkWindow(chunk=CHUNK)
    (clip,) = fixed_batches(ReachConfig().build(), window, CAMERAS, size, size, seed=seed)
    return clip


def policy_of(config: ImitationPolicyConfig = POLICY, seed: int = 0) -> ImitationPolicy:
    """Build a policy that knows its statistics and has a contract."""
    torch.manual_seed(seed)
    policy = config.build()
    set_statistics(policy)
    policy.contract = replace(CONTRACT, history=config.history, chunk=config.chunk)
    return policy


def set_statistics(policy: ImitationPolicy) -> None:
    policy.set_statistics(MEAN, STD, torch.full((4,), 0.5), torch.full((4,), 0.25))


def shown(clip: Clip, history: int = 1) -> Observation:
    text = clip["text"]
    assert not isinstance(text, str)
    return Observation(
        video=clip["video"][:, :history], state=clip["state"][:, :history], text=text
    )


def sizes(tokens: int = 0, condition: int = 6, grippers: tuple[int, ...] = (6,)) -> Sizes:
    return Sizes(condition=condition, tokens=tokens, actions=7, grippers=grippers, chunk=CHUNK)


def head_inputs(batch: int = 5, tokens: int = 0) -> tuple[Condition, Tensor, Tensor, Tensor]:
    """Return a condition, actions in network units, no padding, and keys."""
    torch.manual_seed(1)
    z = torch.randn(batch, 6)
    condition = Condition(z, torch.randn(batch, 9, tokens) if tokens else None)
    action = torch.randn(batch, CHUNK, 7).tanh()
    action[..., 6] = torch.where(action[..., 6] > 0, 1.0, -1.0)
    is_pad = torch.zeros(batch, CHUNK, dtype=torch.bool)
    return condition, action, is_pad, torch.arange(batch) * 1000


def check_head(config: HeadConfig, tokens: int = 0, reads_padding: bool = False) -> None:
    """Losses are finite, belong to the sample, ignore padding and reach every weight.

    A network that mixes commands both ways reads the noise over padded ones, as when it acts.
    """
    torch.manual_seed(0)
    head = config.build(sizes(tokens))
    condition, action, is_pad, key = head_inputs(tokens=tokens)
    terms = head.losses(condition, action, is_pad, key)
    total = torch.stack(list(terms.values())).sum()
    total.backward()
    idle = [n for n, p in head.named_parameters() if p.grad is None or not p.grad.any()]
    assert not idle, f"no gradient reaches {idle}"

    torch.manual_seed(7)
    again = head.losses(condition, action, is_pad, key)
    assert all(torch.equal(again[name], value) for name, value in terms.items())
    other = head.losses(Condition(condition.z.roll(1, 0), condition.tokens), action, is_pad, key)
    assert all(other[name] != value for name, value in terms.items())
    halves = [
        head.losses(
            Condition(condition.z[r], None if condition.tokens is None else condition.tokens[r]),
            action[r],
            is_pad[r],
            key[r],
        )
        for r in (slice(0, 2), slice(2, 5))
    ]
    for name, value in terms.items():
        torch.testing.assert_close((2 * halves[0][name] + 3 * halves[1][name]) / 5, value)

    is_pad[1, 2:], is_pad[4, 1:] = True, True
    padded = action.clone()
    padded[is_pad] = 0.25
    before = head.losses(condition, action, is_pad, key)
    after = head.losses(condition, padded, is_pad, key)
    for name, value in before.items():
        if name == "gripper_loss" or not reads_padding:
            torch.testing.assert_close(after[name], value, rtol=1e-6, atol=1e-6)
    floor = head.floors(action, is_pad, key)
    torch.testing.assert_close(head.floors(padded, is_pad, key), floor, rtol=1e-6, atol=1e-6)
    assert floor > 0

    def draw(seed: int) -> Tensor:
        return head.sample(condition, torch.Generator().manual_seed(seed))

    with torch.no_grad():
        chunk = draw(3)
        assert chunk.shape == action.shape
        assert set(chunk[..., 6].unique().tolist()) <= {-1.0, 1.0}
        assert torch.equal(draw(3), chunk)
