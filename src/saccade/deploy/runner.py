"""A policy at work: which moments it is shown, when it is asked, which commands are executed.

The history is made as ``data/windows.py`` makes it for training, where the first moment stands
for all before it. Frames are asked for only at moments that some later observation will show, so
that a simulator draws no picture in vain.
"""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float32

from saccade.deploy.preparation import Moment, Preparation, instruction_of
from saccade.errors import ConfigError, NumericError
from saccade.types import Contract, Observation, Policy


@runtime_checkable
class Actor(Protocol):
    """Whatever answers an observation with commands: a policy here, or one behind a network."""

    contract: Contract

    def act(self, observation: Observation, seed: Sequence[int]) -> Float32[np.ndarray, "k a"]:
        """Return the next commands. The same observation and seed give the same ones."""
        ...


class LocalActor:
    """A policy in this process.

    Args:
        policy: the policy, or the folder that one was saved in.
        device: cpu, cuda, or auto.

    Raises:
        CheckpointError: the folder holds no policy.
        ConfigError: there is no such device here.
    """

    def __init__(self, policy: Policy | Path, device: str = "cpu") -> None:
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if device != "cpu" and not (device.startswith("cuda") and torch.cuda.is_available()):
            raise ConfigError(f"there is no device {device!r} here; give --device cpu")
        loaded = policy if isinstance(policy, Policy) else Policy.from_pretrained(policy)
        self.policy, self.device = loaded.to(device).eval(), torch.device(device)
        self.contract = loaded.contract

    @torch.no_grad()
    def act(self, observation: Observation, seed: Sequence[int]) -> Float32[np.ndarray, "k a"]:
        """Ask the policy, whose random numbers come from the seed, the same on any device."""
        seen = Observation(
            video=observation["video"].to(self.device),
            state=observation["state"].to(self.device),
            text=observation["text"],
        )
        commands = self.policy.act(seen, generator_of(seed))[0]
        return commands.float().cpu().numpy()


def generator_of(seed: Sequence[int]) -> torch.Generator:
    """Seed a generator by several numbers, of which each counts: (1,) and (1, 0) differ."""
    text = ",".join(str(int(part)) for part in seed)
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
    return torch.Generator().manual_seed(number)


class Runner:
    """Feeds an actor and executes what it answers, step by step.

    Args:
        actor: what is asked.
        execute: commands of a chunk that are executed before the next is asked for; 0: all.
        ensemble: above 0, a command is the mean of what all chunks say about its step, weighted
            by exp(-ensemble * i) with i = 0 for the oldest (ACT, arXiv 2304.13705: execute 1 and
            0.01); grippers too, which are then between open and closed.
    """

    def __init__(self, actor: Actor, execute: int = 0, ensemble: float = 0.0) -> None:
        chunk = actor.contract.chunk
        if not 0 <= execute <= chunk:
            raise ConfigError(
                f"execute is {execute}, the policy answers with {chunk} commands; give 1 to "
                f"{chunk}, or 0 for all"
            )
        if not 0 <= ensemble < np.inf:
            raise ConfigError(f"ensemble is {ensemble}; give 0 (off) or a rate above it, as 0.01")
        if ensemble and (execute or chunk) == chunk:
            raise ConfigError(
                f"ensemble is {ensemble}, but chunks of {chunk} do not overlap when "
                f"{execute or chunk} of each are executed; lower execute"
            )
        self.actor, self.execute, self.ensemble = actor, execute or chunk, ensemble
        self.preparation = Preparation(actor.contract)
        self.latencies: list[float] = []  # seconds that the actor took for each chunk
        self._instruction: str | None = None

    def begin(self, instruction: str, seed: Sequence[int] = ()) -> None:
        """Start an episode: forget moments, commands and latencies."""
        self._instruction, self._seed = instruction_of(instruction), tuple(seed)
        self._step, self._moments = 0, dict[int, Moment]()
        self._chunks: list[tuple[int, Float32[np.ndarray, "k a"]]] = []  # first step, commands
        self.latencies = []

    def act(
        self,
        frames: Callable[[str], np.ndarray],
        state: Mapping[str, float] | Callable[[], Mapping[str, float]],
    ) -> Float32[np.ndarray, " a"]:
        """Return the command of this step; ``frames(camera)`` is called only if one is needed.

        Raises:
            ConfigError: no episode was begun.
            DataError: a frame, the state or the actor's answer is not what the contract says.
            NumericError: the actor's answer is not finite.
        """
        if self._instruction is None:
            raise ConfigError("no episode was begun; call begin(instruction, seed) first")
        step, contract = self._step, self.actor.contract
        if self._shown_later(step):
            values = state() if callable(state) else state
            self._moments[step] = self.preparation.moment(frames, values)
        if step % self.execute == 0:
            self._chunks.append((step, self._ask(step)))
        span = (contract.history - 1) * contract.stride
        for old in [seen for seen in self._moments if seen < max(0, step + 1 - span)]:
            del self._moments[old]
        self._step += 1
        return self._command(step)

    def _shown_later(self, step: int) -> bool:
        """Whether this moment is part of an observation now or later."""
        history, stride = self.actor.contract.history, self.actor.contract.stride
        return step == 0 or any((step + j * stride) % self.execute == 0 for j in range(history))

    def _ask(self, step: int) -> Float32[np.ndarray, "k a"]:
        contract = self.actor.contract
        back = np.arange(-(contract.history - 1), 1) * contract.stride
        shown = [self._moments[int(seen)] for seen in (step + back).clip(0)]
        assert self._instruction is not None
        observation = self.preparation.observation(shown, self._instruction)
        began = time.perf_counter()
        chunk = self.actor.act(observation, (*self._seed, len(self.latencies)))
        self.latencies.append(time.perf_counter() - began)
        return checked_chunk(chunk, contract, self.execute)

    def _command(self, step: int) -> Float32[np.ndarray, " a"]:
        self._chunks = [(first, c) for first, c in self._chunks if step < first + len(c)]
        if not self.ensemble:
            first, chunk = self._chunks[-1]
            return chunk[step - first]
        told = np.stack([chunk[step - first] for first, chunk in self._chunks])
        weights = np.exp(-self.ensemble * np.arange(len(told)))
        return (weights / weights.sum() @ told).astype(np.float32)


def checked_chunk(chunk: np.ndarray, contract: Contract, least: int) -> Float32[np.ndarray, "k a"]:
    """Return commands that can be executed: one number per axis, ``least`` rows or more.

    Raises:
        ConfigError: they are fewer, or have other axes.
        NumericError: they are not finite.
    """
    if chunk.ndim != 2 or chunk.shape[1] != len(contract.action_names) or len(chunk) < least:
        raise ConfigError(
            f"the policy answered with {list(chunk.shape)} numbers, expected at least {least} "
            f"commands of {len(contract.action_names)} ({', '.join(contract.action_names)})"
        )
    if not np.isfinite(chunk).all():
        raise NumericError("the policy answered with numbers that are not finite; train it again")
    return chunk.astype(np.float32)
