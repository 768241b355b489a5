"""EgoDex: head-camera video with the joints of both hands."""
