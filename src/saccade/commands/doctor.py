"""``saccade doctor``."""

from dataclasses import dataclass
from typing import Literal

import tyro
from rich.console import Console

from saccade.doctor import examine, install_libero


@dataclass(frozen=True)
class Command:
    """Examine this machine: Python, torch, GPU, rendering, video, disk, cache, versions.

    Renders one frame and encodes and decodes one clip. Exit code 1 when something that saccade
    needs is missing; each finding says how to mend it.

    Example: saccade doctor

    Example: saccade doctor --install libero

    Args:
        install: what to install first: libero, with what it needs and nothing that replaces torch.
    """

    install: Literal["libero"] | None = None


def main(args: list[str]) -> int:
    """Print the findings."""
    command = tyro.cli(Command, args=args, prog="saccade doctor")
    if command.install:
        print(f"installed {', '.join(install_libero())}")
    console = Console(highlight=False, soft_wrap=True)
    checks = examine()
    for check in checks:
        bad = "[red]FAIL[/]" if check.required else "[yellow]-   [/]"
        mark = "[green]ok  [/]" if check.ok else bad
        console.print(f"{mark} {check.name:<16}", end=" ")
        console.print(check.detail, markup=False)
        if not check.ok and check.mend:
            console.print(f"     {'':<16} mend: {check.mend}", markup=False)
    return int(any(check.required and not check.ok for check in checks))
