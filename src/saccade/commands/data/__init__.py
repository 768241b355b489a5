"""``saccade data VERB``: what one does with a data set before training on it."""

import importlib

from saccade.errors import ConfigError

USAGE = """Data sets of any format, on disk or in a bucket.

usage: saccade data VERB URI [options]    saccade data VERB --help teaches, with an example

  formats    what can be read, and the options of each reader
  inspect    what is in a data set: sizes, rates, ranges, tasks, oddities, a picture strip
  verify     read every record, checksum, frame and length; list what is broken and where
  check-ac   does it obey the contract of an action-conditioned V-JEPA 2; exit code 1 if not
  stats      normalisation statistics of states and actions -> stats.json
  convert    any format -> LeRobot v3, exactly or small; goes on after a stop
  split      deal episodes, tasks or scenes into parts -> split.json
  cache      decode once to a store of frames that training reads from memory maps
  language   instructions -> a table of vectors by CLIP's text network, for policies
  extract    unpack a zip or tar archive of a data set, refusing what climbs out
  droid-csv  the list of trajectories that V-JEPA 2-AC trains on, from raw DROID

URI is a folder, or gs://, s3://, hf:// or https://. A reader's own options follow --option.
Example: saccade data inspect gs://gresearch/robotics/droid_100 --option state=joint

verify, stats and convert divide their work: --jobs N processes on this machine, and
--shard i/n (i from 0) on each of n machines, then once --merge, which may be repeated."""

VERBS = (
    "formats",
    "inspect",
    "verify",
    "check-ac",
    "stats",
    "convert",
    "split",
    "cache",
    "language",
    "extract",
    "droid-csv",
)


def main(args: list[str]) -> int:
    """Run one verb."""
    if not args or args[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if args else 2
    if args[0] not in VERBS:
        raise ConfigError(
            f"there is no `saccade data {args[0]}`; there are {', '.join(VERBS)} "
            f"(what is in a data set: saccade data inspect {args[0]})"
        )
    module = importlib.import_module(f"{__name__}.{args[0].replace('-', '_')}")
    return module.main(args[1:])
