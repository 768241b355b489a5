"""Suites and players by the names that the command line has for them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from saccade.errors import CheckpointError, ConfigError
from saccade.evals.players import NothingConfig, PolicyConfig, RandomConfig
from saccade.evals.protocols import Protocol
from saccade.evals.rollouts import Player, PlayerConfig
from saccade.scenes import Scene, Suite

POLICY = "policy"  # folder that training exports, inside a run
PLAIN = {"random": RandomConfig, "nothing": NothingConfig}


def suite_named(name: str, assets: Path | None = None) -> Suite:
    """Return a suite: ``libero_object`` and its siblings, or ``metaworld:reach,push``.

    Raises:
        ConfigError: there is none of that name, or its simulator is not installed.
        DataError: its files are missing.
    """
    family, _, tasks = name.partition(":")
    if family.startswith("libero"):
        from saccade.sim.libero.suite import LiberoSuite

        return LiberoSuite(name, assets)
    if family == "metaworld":
        if not tasks:
            raise ConfigError("metaworld needs tasks: for example metaworld:reach,push")
        from saccade.sim.metaworld_suite import MetaWorldSuite

        return MetaWorldSuite(tuple(tasks.split(",")))
    raise ConfigError(
        f"there is no suite {name!r}; there are libero_spatial, libero_object, libero_goal, "
        "libero_10, libero_90 and metaworld:TASK,TASK"
    )


def player_named(name: str, protocol: Protocol, device: str = "cpu") -> tuple[str, PlayerConfig]:
    """Return who acts and what it is called: a run, a policy's folder, a server, or a floor.

    Raises:
        CheckpointError: there is no policy in the folder.
    """
    if name in PLAIN:
        return name, PLAIN[name]()
    if name == "expert":
        return name, ExpertConfig()
    how = {"execute": protocol.execute, "ensemble": protocol.ensemble}
    if name.startswith(("ws://", "wss://")):
        return name, PolicyConfig(url=name, pictures=protocol.pictures, **how)
    folder = Path(name)
    inside = folder / POLICY
    if not folder.is_dir():
        raise CheckpointError(
            f"{name} is no folder, and none of {', '.join(PLAIN)} and expert; give a run, the "
            "folder of a policy, or ws://HOST:PORT"
        )
    called = folder.resolve().parent.name if folder.name == POLICY else folder.resolve().name
    found = inside if inside.is_dir() else folder
    return called, PolicyConfig(folder=found, device=device, **how)


@dataclass(frozen=True, kw_only=True)
class ExpertConfig(PlayerConfig):
    """The scripted expert of a simulator: it reads the state of everything, and is a ceiling."""

    def build(self) -> "ExpertPlayer":
        """Return the player."""
        return ExpertPlayer()


class ExpertPlayer(Player):
    """Asks the expert that belongs to the scene's simulator."""

    def check(self, scene: Scene) -> None:
        """Refuse a simulator that has none."""
        self._actions(scene, (0,))

    def begin(self, scene: Scene, seed: Sequence[int]) -> None:
        """Wake the expert."""
        self._next = self._actions(scene, seed)

    def act(self, scene: Scene) -> Float32[np.ndarray, " a"]:
        """Ask for the next action."""
        del scene
        return np.asarray(next(self._next), np.float32)

    def _actions(self, scene: Scene, seed: Sequence[int]) -> Iterator[Float32[np.ndarray, " a"]]:
        if scene.task.suite.startswith("libero"):
            from saccade.sim.libero.experts.expert import Expert
            from saccade.sim.libero.scene import LiberoScene

            assert isinstance(scene, LiberoScene)
            return iter(Expert(scene.env, np.random.default_rng(seed)))
        if scene.task.suite == "metaworld":
            from saccade.sim.metaworld_suite import MetaWorldScene

            assert isinstance(scene, MetaWorldScene)
            return (scene.simulator.expert() for _ in count())
        raise ConfigError(f"{scene.task.suite} has no scripted expert here; leave it out")
