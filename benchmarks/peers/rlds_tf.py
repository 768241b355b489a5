"""What ``benchmarks/rlds.py`` compares with, for an environment with TensorFlow.

Arguments: variant, folder of a version, number of clips. Prints one line of JSON.

    default        tfds decodes every picture of an episode, one clip is kept
    skip_decoding  tfds hands out JPEGs, and 16 of them are decoded: the best that we found
    raw            TFRecordDataset and parse_single_example, and 16 JPEGs are decoded
"""

import json
import os
import sys
import time

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import tensorflow as tf  # pyright: ignore
import tensorflow_datasets as tfds  # pyright: ignore

CAMERA, FRAMES, EDGE, CROP = "exterior_image_1_left", 16, 292, 256
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def window(frames):
    """Take 16 consecutive frames from a random place."""
    start = tf.random.uniform((), 0, tf.shape(frames)[0] - FRAMES + 1, tf.int32)
    return frames[start : start + FRAMES]


def decoded(jpegs):
    kind = tf.TensorSpec((None, None, 3), tf.uint8)
    return tf.map_fn(lambda data: tf.io.decode_jpeg(data, 3), jpegs, fn_output_signature=kind)


def finished(frames, whole_numbers):
    """Resize the shorter edge, cut out the centre, normalise."""
    height, width = 180, 320
    size = (EDGE, EDGE * width // height)
    top, left = ((side - CROP) // 2 for side in size)
    frames = tf.image.resize(frames, size)[:, top : top + CROP, left : left + CROP]
    if whole_numbers:
        return tf.cast(tf.clip_by_value(tf.round(frames), 0, 255), tf.uint8)
    return (frames / 255 - tf.constant(MEAN)) / tf.constant(STD)


def pipeline(variant, folder):
    """Return an endless data set of clips, one of every episode in turn."""
    auto, whole = tf.data.AUTOTUNE, variant.endswith("uint8")
    key = f"steps/observation/{CAMERA}"
    spec = {key: tf.io.FixedLenSequenceFeature((), tf.string, allow_missing=True)}

    def of_record(record):
        return decoded(window(tf.io.parse_single_example(record, spec)[key]))

    def of_jpegs(episode):
        return decoded(window(episode["steps"]["observation"][CAMERA]))

    def of_pictures(episode):
        frames = episode["steps"].map(lambda step: step["observation"][CAMERA])
        return window(frames.batch(4096).get_single_element())

    if variant == "raw":
        files = tf.data.Dataset.list_files(f"{folder}/*.tfrecord*", shuffle=False)
        records = files.interleave(tf.data.TFRecordDataset, num_parallel_calls=auto)
        taken = of_record
    else:
        plain = variant == "default"
        decoders = None if plain else {"steps": tfds.decode.SkipDecoding()}
        builder = tfds.builder_from_directory(folder)
        records = builder.as_dataset(split="train", decoders=decoders)
        taken = of_pictures if plain else of_jpegs
    clips = records.repeat().map(lambda x: finished(taken(x), whole), num_parallel_calls=auto)
    return clips.prefetch(2)


def peak_mib():
    with open("/proc/self/status") as status:
        (line,) = (line for line in status if "VmHWM" in line)
    return int(line.split()[1]) / 1024


def main(variant, folder, clips):
    reading = pipeline(variant, folder).as_numpy_iterator()
    shape = next(reading).shape
    begun = time.time()
    assert shape == (FRAMES, CROP, CROP, 3), shape
    for _ in range(3):
        next(reading)
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(clips):
        next(reading)
    found = {
        "first_at": begun,
        "wall": (time.perf_counter() - wall) / clips,
        "cpu": (time.process_time() - cpu) / clips,
        "mib": peak_mib(),
    }
    print(json.dumps(found), flush=True)
    os._exit(0)  # not waiting for threads that read ahead


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
