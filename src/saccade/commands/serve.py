"""``saccade serve``."""

import asyncio
import re
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from saccade.commands.common import say
from saccade.deploy.protocol import Gripper
from saccade.deploy.runner import LocalActor
from saccade.deploy.server import HEALTH, PolicyServer, ServeConfig
from saccade.errors import ConfigError

INTERRUPTED = 130
SIZES = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}


@dataclass(frozen=True, kw_only=True)
class Command:
    """Serve a policy over a websocket, in openpi's protocol; Ctrl-C or SIGTERM ends it.

    Any openpi client can ask; what it has to send is in the metadata. Nothing is unpickled, and
    there are no passwords: whoever reaches the port may ask.

    Example: saccade serve runs/phase2/policy --port 8000

    Args:
        checkpoint: folder of a policy, or of the run that exported it.
        host: 127.0.0.1 is this machine alone, 0.0.0.0 all its networks.
        port: 0 lets the system choose.
        device: cpu, cuda, or auto.
        max_message: largest request, such as 32MB.
        max_clients: at the same time.
        timeout: seconds that a client may take to connect, to answer a ping and to read.
        gripper: of the answers: unit is 1 open 0 closed; libero -1 open 1 closed, which is what
            openpi's own LIBERO client executes.
    """

    checkpoint: tyro.conf.Positional[Path]
    host: str = "127.0.0.1"
    port: int = 8000
    device: str = "auto"
    max_message: str = "32MB"
    max_clients: int = 16
    timeout: float = 30.0
    gripper: Gripper = "unit"


def main(args: list[str]) -> int:
    """Serve until a signal comes."""
    command = tyro.cli(Command, args=args, prog="saccade serve")
    config = ServeConfig(
        host=command.host,
        port=command.port,
        most_bytes=size_of(command.max_message),
        most_clients=command.max_clients,
        timeout=command.timeout,
        gripper=command.gripper,
    )
    inside = command.checkpoint / "policy"
    folder = inside if inside.is_dir() else command.checkpoint
    return asyncio.run(serve(LocalActor(folder, command.device), config))


async def serve(actor: LocalActor, config: ServeConfig) -> int:
    """Serve; return 0 after SIGTERM and 130 after Ctrl-C. A second signal ends at once."""
    loop, stop, received = asyncio.get_running_loop(), asyncio.Event(), list[int]()

    def note(number: int) -> None:
        received.append(number)
        for each in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(each)
            signal.signal(each, signal.SIG_DFL)
        say("stopping: the policy finishes the observation in hand, clients are sent away")
        stop.set()

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in before:
        loop.add_signal_handler(number, note, number)

    def ready(port: int) -> None:
        digest = actor.contract.digest()
        print(f"serving contract {digest} on ws://{config.host}:{port}, {actor.device}")
        print(f"health: http://{config.host}:{port}{HEALTH}")
        sys.stdout.flush()

    try:
        await PolicyServer(actor, config).run(stop, ready)
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)
    return INTERRUPTED if received[:1] == [signal.SIGINT] else 0


def size_of(text: str) -> int:
    """Read a size such as 32MB, in bytes.

    Raises:
        ConfigError: it is none.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMG]?)B?", text.strip().upper())
    if not found:
        raise ConfigError(f"max_message is {text!r}, expected a size such as 32MB")
    return int(float(found[1]) * SIZES[found[2]])
