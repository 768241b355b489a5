"""StateVLA: a state encoder by temporal prediction (phase 1), a flow policy over it (phase 2).

Beside it stands behaviour cloning as LIBERO does it, over any encoder. The documents train each
phase for 1000 epochs of 70,007 windows (70 million samples, 1.09 million steps of 64) at a constant
rate; the defaults here are budgets of about 30 epochs, warmed up and then lowered:
--train.samples is theirs if you have the days. --data is another data set, and --encoder RUN what
phase 2 or behaviour cloning sees with.

Instructions become fixed vectors by a hash, which tells ten tasks apart and knows nothing of what
words mean; --language with a table of `saccade data language`, or a CLIP, is the documents' way.
"""

from pathlib import Path

from saccade.config import Config
from saccade.data.episodes import Episodes
from saccade.data.libero.reader import LiberoConfig
from saccade.data.synthetic_reach import ReachConfig
from saccade.data.windows import ChunkWindow, TransitionWindow
from saccade.experiments.acting import PolicyTraining, StateTraining
from saccade.experiments.source import SourceConfig
from saccade.models.language import HashLanguageConfig
from saccade.models.policies.conditions import StateConditionConfig
from saccade.models.policies.flow import FlowHeadConfig
from saccade.models.policies.mixture import MixtureHeadConfig, RegressionHeadConfig
from saccade.models.policies.policy import ImitationPolicyConfig
from saccade.models.policies.visual import VisualConditionConfig
from saccade.models.pretrained import PretrainedConfig
from saccade.models.state_encoder import PretrainedStateEncoderConfig, StateEncoderConfig
from saccade.models.vit import ViTConfig
from saccade.objectives.imitation import ImitationConfig
from saccade.objectives.temporal_jepa import TemporalJepaConfig
from saccade.train.config import TrainConfig

LIBERO = LiberoConfig(root=Path("data/libero_object"), state="joint_fingers")
TINY_ENCODER = StateEncoderConfig(
    language=HashLanguageConfig(dim=64),
    image_size=64,
    patch=16,
    dim=128,
    depth=4,
    modality_std=0.02,
    standardise_state=True,
)
DEBUG_ENCODER = StateEncoderConfig(
    language=HashLanguageConfig(dim=16),
    image_size=32,
    patch=8,
    state_size=4,
    dim=32,
    depth=1,
    modality_std=0.02,
)

DEBUG_TRAIN = TrainConfig(samples=64, batch_size=8, workers=0, eval_every=4, save_every=4)


def source(episodes: Config[Episodes]) -> SourceConfig:
    """Nine demonstrations of ten are learned from; the simulator is the test."""
    return SourceConfig(episodes=episodes, cameras=("agentview", "wrist"), shares=(0.9, 0.1, 0.0))


def phase1() -> StateTraining:
    """The documents' state encoder, 12 Mamba layers at 224 pixels; for a GPU."""
    encoder = StateEncoderConfig(language=HashLanguageConfig(), frame_size=128)
    return StateTraining(
        objective=TemporalJepaConfig(encoder=encoder),
        source=source(LIBERO),
        window=TransitionWindow(gap=1, every=1),
        train=TrainConfig(samples=2_000_000, batch_size=64, lr=1e-4, eval_every=1000),
    )


def phase2() -> PolicyTraining:
    """The documents' policy: flow matching over the frozen state of phase 1; for a GPU."""
    condition = StateConditionConfig(
        encoder=PretrainedStateEncoderConfig(folder=Path("runs/phase1"))
    )
    return PolicyTraining(
        objective=ImitationConfig(policy=ImitationPolicyConfig(condition=condition)),
        source=source(LIBERO),
        window=ChunkWindow(chunk=10, every=1, tail="drop"),
        train=TrainConfig(samples=2_000_000, batch_size=64, lr=5e-5, eval_every=1000),
    )


def bc_transformer() -> PolicyTraining:
    """LIBERO's behaviour cloning, ten moments and a mixture, over any frozen encoder."""
    condition = VisualConditionConfig(
        encoder=PretrainedConfig(folder=Path("runs/encoder/encoder")), language=HashLanguageConfig()
    )
    policy = ImitationPolicyConfig(
        condition=condition,
        head=MixtureHeadConfig(),
        actions="recorded",
        history=10,
        chunk=1,
        supervise="every",
    )
    return PolicyTraining(
        objective=ImitationConfig(policy=policy),
        source=source(LIBERO),
        window=ChunkWindow(history=10, chunk=1, every=1, past_actions=True),
        train=TrainConfig(samples=1_000_000, batch_size=64, lr=1e-4, eval_every=1000),
    )


def phase1_tiny() -> StateTraining:
    """A small state encoder in minutes on two CPU cores.

    Small modality embeddings, standardised states and 35 tokens: with the documents' initial
    values, states that hardly differ at first vary along one line for as long as this run lasts.
    """
    return StateTraining(
        objective=TemporalJepaConfig(encoder=TINY_ENCODER, vicreg_on=("prediction", "state")),
        source=source(LIBERO),
        window=TransitionWindow(gap=1, every=1),
        eval_samples=512,
        train=TrainConfig(
            samples=64_000, batch_size=64, lr=1e-3, eval_every=50, save_every=100, workers=0
        ),
    )


def phase2_tiny() -> PolicyTraining:
    """A small flow policy over the state of ``phase1_tiny``, in minutes on two CPU cores.

    It may look at the frozen encoder's tokens too: what so short a phase 1 puts into ``z`` alone
    says too little of where things lie (motion error 0.34 of the mean action's, against 0.15).
    """
    return PolicyTraining(
        objective=ImitationConfig(
            policy=ImitationPolicyConfig(
                condition=StateConditionConfig(
                    encoder=PretrainedStateEncoderConfig(folder=Path("runs/phase1_tiny")),
                    use="tokens",
                ),
                head=FlowHeadConfig(dim=128, state=16, hidden=128),
            )
        ),
        source=source(LIBERO),
        window=ChunkWindow(chunk=10, every=1),
        eval_samples=512,
        train=TrainConfig(
            samples=60_000, batch_size=32, lr=1e-3, eval_every=200, save_every=200, workers=0
        ),
    )


def bc_tiny() -> PolicyTraining:
    """Behaviour cloning from pixels to chunks, all of it trained, in minutes on two CPU cores.

    Motion is standardised and learned by least squares: a mixture over commands as recorded
    spends its likelihood on the wrist's turns, which hardly vary, and learned no way to the object.
    """
    condition = VisualConditionConfig(
        encoder=ViTConfig(
            image_size=64, num_frames=1, tubelet=1, patch=8, dim=128, depth=4, heads=4
        ),
        language=HashLanguageConfig(dim=64),
        frozen=False,
        dim=128,
        depth=2,
        heads=4,
        hidden=256,
    )
    head = RegressionHeadConfig(width=256)
    return PolicyTraining(
        objective=ImitationConfig(policy=ImitationPolicyConfig(condition=condition, head=head)),
        source=source(LIBERO),
        window=ChunkWindow(chunk=10, every=1),
        eval_samples=128,
        train=TrainConfig(
            samples=48_000, batch_size=32, lr=5e-4, eval_every=200, save_every=200, workers=0
        ),
    )


def phase1_debug() -> StateTraining:
    """Phase 1 in seconds on a laptop: every code path, no data, no accelerator."""
    return StateTraining(
        objective=TemporalJepaConfig(encoder=DEBUG_ENCODER, hidden=32),
        source=source(ReachConfig()),
        window=TransitionWindow(gap=1, every=1),
        eval_samples=32,
        train=DEBUG_TRAIN,
    )


def phase2_debug() -> PolicyTraining:
    """Phase 2 in seconds on a laptop, over a frozen encoder of random weights."""
    return PolicyTraining(
        objective=ImitationConfig(
            policy=ImitationPolicyConfig(
                condition=StateConditionConfig(encoder=DEBUG_ENCODER),
                head=FlowHeadConfig(dim=32, depth=1, state=4, hidden=32),
                chunk=4,
            )
        ),
        source=source(ReachConfig()),
        window=ChunkWindow(chunk=4, every=1),
        eval_samples=32,
        train=DEBUG_TRAIN,
    )


def bc_debug() -> PolicyTraining:
    """Behaviour cloning in seconds on a laptop: two moments, each of them learned from."""
    condition = VisualConditionConfig(
        encoder=ViTConfig(
            image_size=32, num_frames=1, tubelet=1, patch=8, dim=32, depth=1, heads=2
        ),
        language=HashLanguageConfig(dim=16),
        state_size=4,
        frozen=False,
        queries=2,
        dim=32,
        depth=1,
        heads=2,
        hidden=64,
    )
    policy = ImitationPolicyConfig(
        condition=condition,
        head=MixtureHeadConfig(width=32),
        actions="recorded",
        history=2,
        chunk=4,
        supervise="every",
    )
    return PolicyTraining(
        objective=ImitationConfig(policy=policy),
        source=source(ReachConfig()),
        window=ChunkWindow(history=2, stride=2, chunk=4, every=1, past_actions=True),
        eval_samples=32,
        train=DEBUG_TRAIN,
    )
