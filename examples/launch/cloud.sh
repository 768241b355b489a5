#!/usr/bin/env bash
# Train on one machine with one or several GPUs, keep a copy in a bucket, shut down at the end.
#
#   examples/launch/cloud.sh --bucket s3://lab/runs --data s3://lab/egodex \
#       --recipe two_stream:strong_base --recipe video_mae:strong_base -- --train.samples 1000000
#
#   --bucket URI     s3://, gs:// or hf://; each run has a folder there
#   --data URI       data set, in a bucket or on a disk
#   --recipe NAME    as `saccade train` lists them; several are trained one after the other
#   --out FOLDER     where runs lie here (runs)
#   --processes N    one for each GPU (all GPUs, or 1)
#   --sanity         64 samples of each recipe and no shutdown, to see that all works
#   --no-shutdown    leave the machine on
#   --dry-run        print the commands
#
# Run again after anything went wrong: finished runs are left alone, others go on.
set -euo pipefail

bucket="" data="" out="runs" processes="" sanity=0 shutdown="sudo shutdown -h +2" dry=0
recipes=() more=()
while (($#)); do
  case "$1" in
    --bucket) bucket="$2"; shift 2 ;;
    --data) data="$2"; shift 2 ;;
    --recipe) recipes+=("$2"); shift 2 ;;
    --out) out="$2"; shift 2 ;;
    --processes) processes="$2"; shift 2 ;;
    --sanity) sanity=1; shift ;;
    --no-shutdown) shutdown=""; shift ;;
    --dry-run) dry=1; shift ;;
    --) shift; more=("$@"); break ;;
    *) echo "error: unknown option $1; see the head of $0" >&2; exit 2 ;;
  esac
done
if [[ -z "$bucket" || ${#recipes[@]} -eq 0 ]]; then
  echo "error: give --bucket and at least one --recipe; see the head of $0" >&2
  exit 2
fi
if [[ -z "$processes" ]]; then
  processes="$(nvidia-smi --list-gpus 2>/dev/null | wc -l || true)"
  ((processes > 0)) || processes=1
fi
if ((sanity)); then
  more+=(--train.samples 64 --train.batch-size 16) out="$out/sanity" bucket="$bucket/sanity" shutdown=""
fi

last=$((${#recipes[@]} - 1))
for i in "${!recipes[@]}"; do
  name="${recipes[$i]//:/-}"
  command=(torchrun --standalone --nproc-per-node "$processes" --max-restarts 3 -m saccade.cli
    train "${recipes[$i]}" --out "$out/$name" --resume auto
    --sync "$bucket/$name" --sync-every 10min)
  [[ -z "$data" ]] || command+=(--data "$data")
  # Only the last run may turn the machine off, and only when all of it is in the bucket.
  [[ -z "$shutdown" || $i -lt $last ]] || command+=(--shutdown-command "$shutdown")
  ((${#more[@]} == 0)) || command+=("${more[@]}")
  printf '%q ' "${command[@]}"
  echo
  if ((!dry)); then "${command[@]}"; fi
done
