"""``saccade data check-ac``."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from jaxtyping import Float, UInt8
from rich.table import Table
from torch import Tensor

from saccade.checkpoint import write_atomic
from saccade.commands.data.source import Source, name_of, wide_console
from saccade.data.files.index import cache_folder
from saccade.data.passes.contract.cameras import square_box
from saccade.data.passes.contract.check import Checked, check_ac
from saccade.data.passes.contract.findings import Finding
from saccade.data.passes.words import counted
from saccade.data.transforms import ac_box
from saccade.report.pictures import save_strip

DERIVED = ("delta", "relabelled")  # actions that our readers make out of the states
AC, SQUARE = (0.1, 0.9, 0.3), (1.0, 0.7, 0.1)  # RGB: the boxes of the crops
COLOURS = {"ok": "green", "warning": "yellow", "fails": "red", "not decidable": "cyan"}


@dataclass(frozen=True, kw_only=True)
class Command(Source):
    """Say whether a data set is what an action-conditioned V-JEPA 2 expects; end with 1 if not.

    Units, Euler order, sense of the gripper, rate, camera and recorded actions are each judged by
    the data: ok, warning, fails, or not decidable, where the data hold no evidence. A picture of
    each camera shows the crop that the model was trained with (green) and the square (orange).

    Example: saccade data check-ac data/droid --step-seconds 0.25 --camera exterior_1

    Args:
        step_seconds: time from one frame of the model to the next.
        camera: the one to use; without it, the first that stands still.
        sample: most episodes to look at, evenly spread; 0 looks at all.
        out: folder of the pictures; without it, one in the cache folder.
        report: file for everything that was found, as JSON.
    """

    step_seconds: float = 0.25
    camera: str = ""
    sample: int = 200
    out: Path | None = None
    report: Path | None = None


def main(args: list[str]) -> int:
    """Check."""
    command = tyro.cli(Command, args=args, prog="saccade data check-ac")
    config = command.config()
    derived = getattr(config, "action", "") in DERIVED
    checked = check_ac(
        config.build(), command.step_seconds, command.camera, command.sample, derived
    )
    tell(checked)
    folder = command.out or cache_folder() / "check-ac" / name_of(command.uri)
    for camera in checked.cameras:
        if camera.strip is not None:
            path = folder / f"{name_of(camera.name)}.png"
            save_strip(with_crops(camera.strip), path)
            print(f"picture: {path} (episode {camera.strip_of})")
    if command.report:
        write_atomic(command.report, json.dumps(as_json(command, checked), indent=1) + "\n")
        print(f"report: {command.report}")
    return 1 if checked.fails else 0


def tell(checked: Checked) -> None:
    """Print the table, and a line that sums it up."""
    console = wide_console()
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for column, width in (("check", 16), ("verdict", 13), ("found", None), ("in", 9)):
        table.add_column(column, min_width=width)
    table.add_column("expected, and the mend")
    for finding in checked.findings:
        verdict = f"[{COLOURS[finding.verdict]}]{finding.verdict}[/]"
        size = f"{finding.episodes:,} ep. {finding.frames:,} fr."
        mend = f"{finding.expected}\n-> {finding.mend}" if finding.mend else finding.expected
        table.add_row(finding.check, verdict, finding.found, size, mend)
    console.print(table)
    print(summary(checked.findings))


def summary(findings: list[Finding]) -> str:
    """Count the verdicts in a sentence."""
    counts = {verdict: sum(f.verdict == verdict for f in findings) for verdict in COLOURS}
    told = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
    obeys = "does not obey" if counts["fails"] else "breaks no rule of"
    return f"{counted(len(findings), 'check')}: {told}; the data set {obeys} the contract"


def with_crops(strip: UInt8[Tensor, "t 3 h w"]) -> Float[Tensor, "t 3 h w"]:
    """Draw on each frame what the two crops keep of it."""
    height, width = strip.shape[2:]
    drawn = strip.float() / 255
    for box, colour in ((ac_box(height, width), AC), (square_box(height, width), SQUARE)):
        top, left, tall, wide = box
        edge = torch.zeros(height, width, dtype=torch.bool)
        edge[top : top + tall, left : left + wide] = True
        edge[top + 1 : top + tall - 1, left + 1 : left + wide - 1] = False
        drawn[:, :, edge] = torch.tensor(colour)[None, :, None]
    return drawn


def as_json(command: Command, checked: Checked) -> dict[str, Any]:
    """Return everything that was found, as JSON values."""
    return {
        "data": command.uri,
        "step_seconds": command.step_seconds,
        "camera": checked.used.name if checked.used else None,
        "obeys": not checked.fails,
        "findings": [dataclasses.asdict(finding) for finding in checked.findings],
    }
