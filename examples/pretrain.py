"""Pretrain an encoder on frame pairs, without action labels, and use it.

    python examples/pretrain.py [RUN_FOLDER]

A training is a value made of configs: what to learn, from what, how long. Every size here is a
toy, so that it ends in seconds; ``saccade.recipes`` holds the real ones.
"""

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from saccade.data.synthetic import SyntheticConfig
from saccade.data.windows import PairWindow
from saccade.experiments.source import SourceConfig
from saccade.experiments.training import Training
from saccade.models.streams import StreamsConfig
from saccade.objectives.future_patches import FuturePatchesConfig
from saccade.train.config import TrainConfig
from saccade.train.log import Screen
from saccade.types import Encoder


def main(folder: Path) -> None:
    """Train, read the numbers, then encode a pair of frames."""
    data = SyntheticConfig(image_size=32)  # or LeRobotConfig(root=Path("data/metaworld"))
    encoder = StreamsConfig(image_size=32, patch=8, dim=24, depth=3, heads=2, border="replicate")
    two_stream = Training(
        objective=FuturePatchesConfig(
            encoder=encoder, decoder_dim=24, decoder_depth=1, decoder_heads=2
        ),
        source=SourceConfig(episodes=data, cache=str(folder / "cache")),
        window=PairWindow(max_gap=5, law="triangular"),
        eval_samples=32,
        train=TrainConfig(samples=640, batch_size=16, lr=2e-3, workers=0, eval_every=10),
    )
    single_stream = replace(  # an ablation is the same value with one field changed
        two_stream,
        objective=replace(two_stream.objective, encoder=replace(encoder, variant="nine_channel")),
    )
    for name, training in {"two": two_stream, "single": single_stream}.items():
        result = training.run(folder / name, progress=Screen(sys.stderr))
        share = result["scores"]["eval/ratio"]
        print(f"{name}-stream: {share:.2f} x the loss of the {result['baseline']} baseline")

    trained = Encoder.from_pretrained(folder / "two" / "encoder")
    video = data.build().read(0, np.array([0, 5]))["video"][:, 0]  # uint8 [t, 3, h, w]
    print("features", tuple(trained.pool(trained(video[None])).shape), "from", folder / "two")


if __name__ == "__main__":
    main(Path(*sys.argv[1:]) if sys.argv[1:] else Path(tempfile.mkdtemp()))
