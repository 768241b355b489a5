"""RLDS data sets in TFRecord shards, without TensorFlow."""
