"""Evaluation protocols: every constant that a success rate depends on, by name.

Published numbers come from four ways of evaluating in LIBERO that differ in horizon, settling,
seeds and pictures; a rate without its protocol cannot be compared. Horizons count the policy's
own steps: the steps in which the scene settles come before. Facts are from the authors' code, as
of 2026-11; commands here have the gripper 1 open, 0 closed. One thing is not theirs: they seed a
simulator once and reset it for trial after trial, here each rollout has a seed of its own, so that
it does not depend on those before it.
"""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from saccade.config import to_dict
from saccade.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """What a policy is shown that does not say itself what it was trained on.

    Args:
        cameras: in the order of its views.
        render: height and width of the drawn picture.
        jpeg: quality of a trip through JPEG (colours at half resolution); 0 leaves it out.
        resize: height and width after that, antialiased; 0 keeps the drawn size.
        resample: how pictures are resized.
        orientation: of what the policy is shown.
        state_names: of the numbers beside the pictures.
        chunk: actions that it answers with, at least.
    """

    cameras: tuple[str, ...] = ("agentview", "wrist")
    render: int = 256
    jpeg: int = 0
    resize: int = 0
    resample: Literal["lanczos", "bilinear"] = "lanczos"
    orientation: Literal["upright", "raw", "rot180"] = "rot180"
    state_names: tuple[str, ...] = (
        *("x", "y", "z", "rx", "ry", "rz"),
        *("gripper_left", "gripper_right"),
    )
    chunk: int = 1


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How success is measured.

    Args:
        name: as on the command line.
        source: where the constants come from.
        trials: rollouts of each task and seed; trial ``k`` begins in initial state ``k``.
        horizons: suites with the steps that a policy has, such as ("libero_goal", 300).
        settle: steps before the policy's first, in which nothing is done.
        settle_gripper: the gripper's command in them; 0.5 commands no motion.
        env_seed: of the simulator, plus the seed of the rollout.
        env_seed_per_trial: whether trial ``k`` adds ``k`` to it.
        policy_seed: of the policy's random numbers, together with the rollout's key.
        execute: actions of a chunk before the policy is asked again; 0 takes all.
        ensemble: exponential weight of averaging overlapping chunks; 0 does not.
        pictures: for policies that have no contract.
        changes: in words, what is not as the protocol has it.
    """

    name: str
    source: str
    trials: int
    horizons: tuple[tuple[str, int], ...]
    settle: int = 10
    settle_gripper: float = 1.0
    env_seed: int = 0
    env_seed_per_trial: bool = False
    policy_seed: int = 0
    execute: int = 0
    ensemble: float = 0.0
    pictures: Pictures = field(default_factory=Pictures)
    changes: tuple[str, ...] = ()

    def horizon(self, suite: str) -> int:
        """Return the steps that a policy has in a suite.

        Raises:
            ConfigError: the protocol does not name the suite.
        """
        known = dict(self.horizons)
        if suite not in known:
            raise ConfigError(
                f"protocol {self.name} has no horizon for {suite}, only for {', '.join(known)}; "
                "give --horizon or another --protocol"
            )
        return known[suite]

    def changed(self, suite: str, **values: Any) -> "Protocol":
        """Return the protocol with other values, and with words for what is changed.

        ``horizon`` is that of ``suite``; None keeps a value.

        Raises:
            ConfigError: a value makes no sense.
        """
        given = {name: value for name, value in values.items() if value is not None}
        made, words = self, list(self.changes)
        if (horizon := given.pop("horizon", None)) is not None:
            before = dict(self.horizons).get(suite)
            made = replace(made, horizons=tuple({**dict(self.horizons), suite: horizon}.items()))
            if horizon != before:
                words.append(f"horizon {horizon} instead of {before or 'none'}")
        for name, value in given.items():
            before = getattr(made, name)
            if value != before:
                words.append(f"{name.replace('_', ' ')} {value} instead of {before}")
                made = replace(made, **{name: value})
        zero = dict.fromkeys(("settle", "execute", "ensemble", "env_seed", "policy_seed"), 0)
        limits = {"trials": 1, **zero}
        low = {name: least for name, least in limits.items() if getattr(made, name) < least}
        if low or any(steps < 1 for _, steps in made.horizons):
            found = low or {"horizon": 1}
            told = ", ".join(f"{name} must be at least {least}" for name, least in found.items())
            raise ConfigError(f"protocol {made.title}: {told}")
        return replace(made, changes=tuple(words))

    @property
    def title(self) -> str:
        """Return the name with what is changed: ``openvla, horizon 200 instead of 220``."""
        return ", ".join((self.name, *self.changes))

    def card(self, suite: str) -> dict[str, Any]:
        """Return everything that a reader must know to repeat a number, as JSON values."""
        values = {key: value for key, value in to_dict(self).items() if key != "type"}
        pictures = {key: value for key, value in values["pictures"].items() if key != "type"}
        del values["horizons"]
        return {**values, "title": self.title, "horizon": self.horizon(suite), "pictures": pictures}


def _libero(spatial: int, goal: int = 300, ten: int = 520, ninety: int = 400) -> Any:
    steps = {"spatial": spatial, "object": 280, "goal": goal, "10": ten, "90": ninety}
    return tuple((f"libero_{name}", value) for name, value in steps.items())


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            name="openvla",
            source="openvla/openvla and moojink/openvla-oft, experiments/robot/libero",
            trials=50,
            horizons=_libero(spatial=220),
            env_seed=0,
            policy_seed=7,
            pictures=Pictures(jpeg=95, resize=224),
        ),
        Protocol(
            name="lerobot",
            source="huggingface/lerobot, lerobot/envs/libero.py and lerobot-eval (2026-08)",
            trials=10,
            horizons=_libero(spatial=280),
            env_seed=1000,
            env_seed_per_trial=True,
            policy_seed=1000,
        ),
        Protocol(
            name="openpi",
            source="Physical-Intelligence/openpi, examples/libero/main.py (2026-08)",
            trials=50,
            horizons=_libero(spatial=220),
            env_seed=7,
            policy_seed=7,
            execute=5,
            pictures=Pictures(resize=224, resample="bilinear", chunk=10),  # pi0.5's; pi0 says 50
        ),
        Protocol(
            name="bc",
            source="Lifelong-Robot-Learning/LIBERO, libero/lifelong/metric.py and configs/eval",
            trials=20,
            horizons=tuple((suite, 600) for suite, _ in _libero(spatial=600)),
            settle=5,
            settle_gripper=0.5,  # LIBERO's seven zeros
            env_seed=10000,
            policy_seed=10000,
            pictures=Pictures(
                render=128,
                orientation="raw",
                state_names=(
                    *(f"joint_{i}" for i in range(1, 8)),
                    *("gripper_left", "gripper_right"),
                ),
            ),
        ),
        Protocol(
            name="metaworld",
            source="Farama-Foundation/Metaworld, max_path_length and 50 goals of MT1",
            trials=50,
            horizons=(("metaworld", 500),),
            settle=0,
            pictures=Pictures(
                cameras=("corner2",), orientation="upright", state_names=("x", "y", "z", "gripper")
            ),
        ),
    )
}


def named(name: str) -> Protocol:
    """Return a protocol.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in PROTOCOLS:
        raise ConfigError(f"there is no protocol {name!r}; there are {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]
