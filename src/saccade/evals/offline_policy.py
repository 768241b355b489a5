"""How near a policy's commands come to those of demonstrators, on episodes it has not seen.

The policy is shown each moment as recorded, so errors do not add up as they do when it acts: a
small error here promises no success, but a large one explains a failure. Padded commands count
nowhere. Every number has a 95 % interval by resampling episodes, and stands beside two floors that
see nothing: the mean action of the training data (and the gripper that is commoner here), and the
last command, repeated.

    mse, rmse    of each axis, in the data's units; normalised: in deviations of the training data,
                 of those axes that vary in them
    gripper      accuracy, F1 of closed, and accuracy where the demonstrator opened or closed it
    horizon      normalised error of motion, and accuracy of the gripper, by step of the chunk
    jerk         root mean square of the commands' second difference, normalised, motion only
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from saccade.data.windows import ChunkWindow
from saccade.errors import ConfigError
from saccade.evals.statistics import Statistic, bootstrap
from saccade.types import Clip, Contract, Observation, Policy

STILL = 2e-6  # deviation of an axis that training data never move: it has no unit to measure by
Commands = Float64[np.ndarray, "n k a"]


def window(contract: Contract, every: int = 1) -> ChunkWindow:
    """Return the window whose clips hold what a policy sees, and the command before now."""
    return ChunkWindow(
        history=max(contract.history, 2),
        stride=contract.stride,
        chunk=contract.chunk,
        every=every,
        past_actions=True,
    )


class Answers(NamedTuple):
    """What was commanded, and what the policy would have commanded."""

    predicted: Commands
    true: Commands
    seen: Bool[np.ndarray, "n k"]  # commands that were recorded, not padded
    before: Float64[np.ndarray, "n a"]  # the command before
    begun: Bool[np.ndarray, " n"]  # whether there was one
    episode: Int64[np.ndarray, " n"]


def ask(policy: Policy, clips: Iterable[Clip], seed: int = 0) -> Answers:
    """Let a policy answer every moment of batches of ``window``'s clips.

    Raises:
        ConfigError: the clips do not hold what the policy sees, or no command before now.
    """
    contract, device = policy.contract, next(policy.parameters()).device
    rows: list[tuple[Tensor, ...]] = []
    for number, clip in enumerate(clips):
        held, needed = clip["action"].shape[1], contract.chunk + 1
        if held < needed or clip["video"].shape[1] < contract.history:
            raise ConfigError(
                f"clips show {clip['video'].shape[1]} moments and {held} commands; a policy with a "
                f"history of {contract.history} and a chunk of {contract.chunk} is asked on those "
                "of evals.offline_policy.window"
            )
        text = clip["text"]
        assert not isinstance(text, str), "a batch has a list of texts"
        shown = Observation(
            video=clip["video"][:, -contract.history :].to(device),
            state=clip["state"][:, -contract.history :].to(device),
            text=text,
        )
        generator = torch.Generator().manual_seed(seed + number)
        with _looking(policy), torch.no_grad():
            answer = policy.act(shown, generator)
        action, pad = clip["action"], clip["is_pad"]
        now = held - contract.chunk
        rows.append(
            (
                answer.float().cpu(),
                action[:, now:],
                ~pad[:, now:],
                action[:, now - 1],
                ~pad[:, now - 1],
                clip["episode"],
            )
        )
    if not rows:
        raise ConfigError("there are no clips to ask the policy about")
    whole = [torch.cat(column).cpu().numpy() for column in zip(*rows, strict=True)]
    predicted, true, seen, before, begun, episode = whole
    return Answers(
        predicted.astype(float), true.astype(float), seen, before.astype(float), begun, episode
    )


@contextmanager
def _looking(policy: Policy) -> Iterator[None]:
    """Put a policy in evaluation mode for a while."""
    before = policy.training
    policy.eval()
    try:
        yield
    finally:
        policy.train(before)


def offline_scores(
    policy: Policy,
    clips: Iterable[Clip],
    mean: Sequence[float],
    std: Sequence[float],
    *,
    seed: int = 0,
    resamples: int = 2000,
) -> dict[str, Any]:
    """Score a policy beside its floors; what comes back can be written as JSON.

    ``mean`` and ``std`` are of the training data's actions, one number for each axis.
    """
    answers = ask(policy, clips, seed)
    return scores(answers, policy.contract.action_names, mean, std, resamples)


def scores(
    answers: Answers,
    names: Sequence[str],
    mean: Sequence[float],
    std: Sequence[float],
    resamples: int = 2000,
) -> dict[str, Any]:
    """Score answers that were collected before."""
    score = _Score(
        answers, tuple(names), np.asarray(mean, float), np.asarray(std, float), resamples
    )
    shape = answers.true.shape
    typical = np.broadcast_to(score.typical(), shape)
    last = np.where(answers.begun[:, None], answers.before, score.typical())
    last = np.broadcast_to(last[:, None], shape)
    return {
        "episodes": len(np.unique(answers.episode)),
        "windows": len(answers.true),
        "commands": int(answers.seen.sum()),
        "policy": score.of(answers.predicted),
        "floors": {"mean_action": score.of(typical), "last_action": score.of(last)},
        "jerk": {
            "policy": score.jerk(answers.predicted),
            "demonstrations": score.jerk(answers.true),
        },
    }


class _Score:
    """Sums over the commands of each episode, and what they come to."""

    def __init__(
        self,
        answers: Answers,
        names: tuple[str, ...],
        mean: Float64[np.ndarray, " a"],
        std: Float64[np.ndarray, " a"],
        resamples: int,
    ) -> None:
        if not len(names) == len(mean) == len(std) == answers.true.shape[2]:
            raise ConfigError(
                f"there are {len(names)} names, {len(mean)} means and {len(std)} deviations for "
                f"commands of {answers.true.shape[2]} axes"
            )
        self.answers, self.names, self.resamples = answers, names, resamples
        self.mean = mean
        self.grippers = [i for i, name in enumerate(names) if name.lower().endswith("gripper")]
        self.motion = [i for i in range(len(names)) if i not in self.grippers]
        self.moving = [i for i in self.motion if std[i] > STILL]
        self.unit = np.where(std > STILL, std, 1.0)
        _, self.place = np.unique(answers.episode, return_inverse=True)

    def typical(self) -> Float64[np.ndarray, " a"]:
        """Return the mean action, with the commoner gripper of these commands."""
        action = self.mean.copy()
        for axis in self.grippers:
            action[axis] = float(self.answers.true[..., axis][self.answers.seen].mean() > 0.5)
        return action

    def of(self, predicted: Commands) -> dict[str, Any]:
        """Return all errors of some commands."""
        seen, true = self.answers.seen, self.answers.true
        squared = np.square(predicted - true)
        normal = squared / np.square(self.unit)
        every = (*self.motion, *self.grippers)
        found: dict[str, Any] = {
            "mse": {self.names[i]: self.mean_of(squared[..., i], seen) for i in every},
            "rmse": {self.names[i]: self.mean_of(squared[..., i], seen, np.sqrt) for i in every},
        }
        if self.moving:
            motion = normal[..., self.moving].mean(-1)
            found["normalised_mse"] = {
                **{self.names[i]: self.mean_of(normal[..., i], seen) for i in self.moving},
                "motion": self.mean_of(motion, seen),
            }
            found["horizon"] = [
                self.mean_of(motion[:, [i]], seen[:, [i]]) for i in range(motion.shape[1])
            ]
        if self.grippers:
            found["gripper"] = {self.names[i]: self.gripper(predicted, i) for i in self.grippers}
        return found

    def gripper(self, predicted: Commands, axis: int) -> dict[str, Any]:
        """Score one gripper, closed below a half."""
        answers = self.answers
        guess, closed = predicted[..., axis] < 0.5, answers.true[..., axis] < 0.5
        right = (guess == closed).astype(float)
        earlier = np.concatenate([answers.before[:, None, axis] < 0.5, closed[:, :-1]], 1)
        known = np.concatenate([answers.begun[:, None], answers.seen[:, :-1]], 1)
        moves = (closed != earlier) & known & answers.seen
        parts = [guess & closed, guess & ~closed, ~guess & closed]
        counts = np.stack([(part & answers.seen).sum(1) for part in parts], 1).astype(float)
        return {
            "accuracy": self.mean_of(right, answers.seen),
            "f1_closed": self.estimate(counts, _f1),
            "accuracy_at_transitions": self.mean_of(right, moves),
            "transitions": int(moves.sum()),
            "horizon": [
                self.mean_of(right[:, [i]], answers.seen[:, [i]]) for i in range(right.shape[1])
            ],
        }

    def jerk(self, commands: Commands) -> dict[str, float | None]:
        """Return how much commands of motion shake."""
        seen = self.answers.seen
        if commands.shape[1] < 3 or not self.moving:
            return dict.fromkeys(("value", "low", "high"))
        normal = (commands / self.unit)[..., self.moving]
        second = np.square(np.diff(normal, n=2, axis=1)).mean(-1)
        return self.mean_of(second, seen[:, 2:], np.sqrt)

    def mean_of(
        self,
        values: Float64[np.ndarray, "n j"],
        counted: Bool[np.ndarray, "n j"],
        then: Callable[[np.ndarray], np.ndarray] = np.asarray,
    ) -> dict[str, float | None]:
        """Average what counts, with its interval; ``then`` is done to the mean."""
        rows = np.stack([(values * counted).sum(1), counted.sum(1).astype(float)], 1)

        def mean(sums: Float64[np.ndarray, "*b c"]) -> Float64[np.ndarray, "*b"]:
            return then(_share(sums[..., 0], sums[..., 1]))

        return self.estimate(rows, mean)

    def estimate(
        self, rows: Float64[np.ndarray, "n c"], statistic: Statistic
    ) -> dict[str, float | None]:
        """Bound a statistic of sums over windows; null where it is not defined."""
        table = np.zeros((1, self.place.max() + 1, rows.shape[1]))
        np.add.at(table[0], self.place, rows)
        found = bootstrap(table, statistic, self.resamples)
        return {k: v if np.isfinite(v) else None for k, v in found._asdict().items()}


def _f1(sums: Float64[np.ndarray, "*b c"]) -> Float64[np.ndarray, "*b"]:
    hit, wrong, missed = (sums[..., i] for i in range(3))
    return _share(2 * hit, 2 * hit + wrong + missed)


def _share(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.where(below > 0, above / np.where(below > 0, below, 1.0), np.nan)
