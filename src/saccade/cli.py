"""The command line: ``saccade VERB ...``.

This file only finds the verb and turns errors into one sentence and an exit code. A verb is a
module of ``saccade.commands`` with ``main(args) -> exit code``, imported when it is called, so
that ``--help`` answers at once.
"""

import errno
import importlib
import logging
import sys

from saccade import __version__
from saccade.errors import ConfigError, OutOfMemory, SaccadeError, is_out_of_memory

USAGE = """Saccade: learn what a robot needs to see, and prove it.

usage: saccade VERB [options]          saccade VERB --help teaches, with an example

  doctor     is this machine ready? what is missing, and how to mend it
  collect    demonstrations of scripted experts in simulation -> LeRobot v3, LIBERO's HDF5
  data       formats, inspect, verify, stats, convert, split, cache: what to do before training
  train      RECIPE -> a run folder with an exported encoder, world model or policy
  runs       list runs: state, progress, best, size; verify, keep and prune checkpoints
  watch      a run in the terminal: progress, curves, speed, alarms
  probe      exported encoders -> what they know about motion, beside the floors
  compare    RECIPE ... -> equal budgets, probes, floors, intervals, one report
  ablate     a method without one part or with another value, cell by cell -> one table
  sweep      one recipe over a list of settings -> one table
  energy     landscapes of a world model and its adapters: is the minimum at the true action?
  evaluate   success rates of policies in LIBERO or Meta-World, with intervals and floors
  serve      a policy over a websocket, in openpi's protocol
  plan       search actions with a world model: offline error, closed loop, calibration
  vla        swap the eyes of OpenVLA or pi0 for an encoder of ours; compare several in one table
  export     lora RUN -> adapters alone, to share; convert official weights
  report     rebuild report.html from results.json
  demo       collect, pretrain three ways, probe and report; minutes on two CPU cores

  --debug    (anywhere) show the traceback of an error
  --version  print the version

Exit codes: 0 done, 2 usage or settings, 3 data, 4 checkpoint, 5 no space, 6 not finite,
7 out of memory, 8 folder busy, 75 stopped and resumable, 130 interrupted."""

VERBS = (
    *("doctor", "collect", "data", "train", "runs", "watch", "probe", "compare", "ablate", "sweep"),
    *("evaluate", "serve", "energy", "plan", "vla", "export", "report", "demo"),
)
INTERRUPTED = 130
LESS_MEMORY = {
    "train": "lower --train.batch-size, raise --train.accumulate, or give "
    "--train.checkpoint-activations",
    "vla": "give --dtype bfloat16, a smaller --base, or fewer --jobs",
    **dict.fromkeys(("compare", "sweep", "ablate"), "give fewer --jobs, or smaller batches"),
    "probe": "give a lower --probe.most, or --probe.precision bfloat16",
    "evaluate": "give fewer --workers",
}
ELSEWHERE, SPACE = (2, "give a place that may be written"), (5, "free some space and run again")
HANDLES = 2, "allow more open files (ulimit -n 4096), or use fewer --train.workers"
UNWRITABLE = (
    dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG), ELSEWHERE)
    | dict.fromkeys((errno.EEXIST, errno.ENOTDIR, errno.EISDIR), ELSEWHERE)
    | dict.fromkeys((errno.ENOSPC, errno.EDQUOT), SPACE)
    | {errno.EMFILE: HANDLES}
)


def main(argv: list[str] | None = None) -> int:
    """Run one verb; return the exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    if "--debug" in args:
        return run([arg for arg in args if arg != "--debug"])
    try:
        return run(args)
    except SaccadeError as error:
        return fail(error.exit_code, str(error))
    except ModuleNotFoundError as error:
        return fail(2, f"{error.name} is not installed; `saccade doctor` says what to install")
    except KeyboardInterrupt:
        return fail(INTERRUPTED, "interrupted")
    except BrokenPipeError:  # the reader of our output has seen enough
        sys.stdout = None
        return 0
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        code, mend = UNWRITABLE[error.errno]
        return fail(code, f"{error.filename}: {error.strerror}; {mend}")
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        mend = LESS_MEMORY.get(args[0], "ask for less at once, or use a machine with more")
        return fail(OutOfMemory.exit_code, f"out of memory; {mend}")


def run(args: list[str]) -> int:
    """Run one verb; errors are the caller's business."""
    # On import it advises a package for processors, which nothing here needs.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    if not args or args[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if args else 2
    if args[0] == "--version":
        print(f"saccade {__version__}")
        return 0
    if args[0] not in VERBS:
        raise ConfigError(f"there is no verb {args[0]!r}; the verbs are {', '.join(VERBS)}")
    return importlib.import_module(f"saccade.commands.{args[0]}").main(args[1:])


def fail(code: int, message: str) -> int:
    """Print one sentence that scripts can find; return the code."""
    print(f"error[{code}]: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
