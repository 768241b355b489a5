"""Ask a frozen encoder how the robot moved, beside the floors that it must beat.

    python examples/probe_an_encoder.py [ENCODER_FOLDER DATA_FOLDER]

Without folders it first pretrains a toy for seconds, so do not expect it to beat anything.
"""

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from saccade.data.lerobot.reader import LeRobotConfig
from saccade.data.synthetic import SyntheticConfig
from saccade.evals.probes.base import ProbeConfig
from saccade.experiments.probing import Probing
from saccade.experiments.source import SourceConfig
from saccade.recipes import video_mae


def toy(folder: Path) -> tuple[Path, SourceConfig]:
    """Pretrain the smallest VideoMAE; return its encoder and what it learned from."""
    data = SyntheticConfig(image_size=32, episodes=20)
    source = SourceConfig(episodes=data, cache=str(folder / "cache"))
    replace(video_mae.debug(), source=source).run(folder / "run")
    return folder / "run" / "encoder", source


def main(folder: Path, arguments: list[str]) -> None:
    """Probe, and print the scores on held-out episodes."""
    if arguments:
        encoder, root = Path(arguments[0]), Path(arguments[1])
        source = SourceConfig(episodes=LeRobotConfig(root=root))
    else:
        encoder, source = toy(folder)
    probing = Probing(
        encoders=(str(encoder),),
        source=source,  # split by episode: readouts learn from 60 %, the rest choose and report
        probe=ProbeConfig(gaps=(1, 5), readouts=("linear",), resamples=500),
    )
    results = probing.run(folder / "probe", command=" ".join(["python", *sys.argv]))
    for row in results["probes"]:
        asked = row["split"], row["group"], row["frame"], row["metric"]
        if asked == ("test", "position", "camera", "r2"):
            interval = "" if row["low"] is None else f" [{row['low']:.2f}, {row['high']:.2f}]"
            print(f"gap {row['gap']}  R2 {row['value']:.2f}{interval}  {row['representation']}")
    print(results["verdict"]["sentence"])
    print("report:", folder / "probe" / "report.html")


if __name__ == "__main__":
    main(Path(tempfile.mkdtemp()), sys.argv[1:])
