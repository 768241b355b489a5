"""Answer for OpenCV or torchcodec, in an environment of their own: ``video_peer.py NAME FILE``.

Each line of input is a JSON list of queries, each a list of frame numbers. Each line of output is
a JSON object: the seconds that they took, and the mean of the first query's pictures. Frames are
decoded with one thread and shrunk to 256 x 256 pixels if they are larger.
"""

import json
import sys
import time
from collections.abc import Callable

import cv2  # pyright: ignore[reportMissingImports]
import numpy as np

SIZE = 256


def fit(frame: np.ndarray) -> np.ndarray:
    """Shrink the central square."""
    height, width = frame.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = frame[top : top + side, left : left + side]
    if side <= SIZE:
        return square
    return cv2.resize(square, (SIZE, SIZE), interpolation=cv2.INTER_AREA)


def opencv(path: str) -> Callable[[list[int]], np.ndarray]:
    """Seek to the first frame; read on from there while that is near, as OpenCV's users do."""
    cv2.setNumThreads(1)
    capture = cv2.VideoCapture(path, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])

    place = 0  # the frame that comes next

    def read(numbers: list[int]) -> np.ndarray:
        nonlocal place
        pictures = []
        for number in numbers:
            if not 0 <= number - place <= 31:
                capture.set(cv2.CAP_PROP_POS_FRAMES, number)
                place = number
            while place < number:
                capture.grab()
                place += 1
            ok, frame = capture.read()
            if not ok:
                raise RuntimeError(f"OpenCV returns no frame {number} of {path}")
            place += 1
            pictures.append(fit(frame)[..., ::-1])
        return np.stack(pictures)

    return read


def torchcodec(path: str) -> Callable[[list[int]], np.ndarray]:
    """Keep a decoder that has scanned the file."""
    import torch
    from torchcodec.decoders import VideoDecoder  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(1)
    decoder = VideoDecoder(path, num_ffmpeg_threads=1, dimension_order="NHWC", seek_mode="exact")
    return lambda numbers: np.stack([fit(f) for f in decoder.get_frames_at(numbers).data.numpy()])


def main() -> None:
    name, path = sys.argv[1:]
    read = {"opencv": opencv, "torchcodec": torchcodec}[name](path)
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        queries = json.loads(line)
        start = time.perf_counter()
        pictures = [read(query) for query in queries]
        seconds = time.perf_counter() - start
        print(json.dumps({"seconds": seconds, "mean": float(pictures[0].mean())}), flush=True)


if __name__ == "__main__":
    main()
