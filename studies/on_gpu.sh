#!/usr/bin/env bash
# A study on a bare machine: CUDA PyTorch, Python 3.12, no network. Parts in order, each with its own time limit; the
# failure of one does not stop the others. What is finished is skipped when the script is called again.
#
#   WHEELS=wheels OUT=out studies/on_gpu.sh record,train:all:6,judge:1,evaluate,rl,time
#
# record[:SHARE]            the data set, all of it or a share (10 minutes at most), a process for each of its sets
# train:VARIANT:MINUTES     a variant of studies/variants.py; the parts after it are about this one
# graphed:VARIANT:SECONDS[:NAME[:START]]   the same with its imagination as a CUDA graph, nine times as fast on an H100;
#                           NAME is that of its folder, START "starter", "nothing" or an earlier NAME
# explore:FIRST:COUNT       explorers FIRST and on in that world, or in the starter's; side by side (5 minutes)
# judge:MINUTES             the success classifier in its imagination
# evaluate[:EPISODES]       numbers.json
# rl[:MINUTES]              the quickstart in that world: RL of the starter policy, real evaluation (10 minutes)
# time[:MINUTES]            bridge-600m: imagined frames a second by batch, one step and ten with guidance (8 minutes)
# time-compiled[:MINUTES]   the same with torch.compile
# vla[:MINUTES]             published policies in full size with random weights: looks, updates, memory (8 minutes)
#
# WHEELS  what studies/wheels.sh collected; left out where everything is installed
# OUT     what comes back, flat, at most 8 files of 16 MiB: log.txt, numbers.json, timing.md, vla.md, weights.tar.000 and on, and
#         parts.json (python -m studies.parcel unpack OUT FOLDER). It may be emptied between two calls.
# STATE   where everything else lies, to be kept between calls: /tmp/study
# DEVICE  cuda; WORKERS the number of cores; PYTHON python3; MUJOCO_GL egl; RL_FLAGS more flags of the quickstart;
#         TRAIN_FLAGS and EXPLORE_FLAGS those of train or graphed, and of explore;
#         TIMED the flags of the timing: --size bridge-600m --batches 1 8 32 128; VLAS the policies of vla
set -uo pipefail
parts=${1:?usage: WHEELS=dir OUT=dir studies/on_gpu.sh record,train:VARIANT:MINUTES,judge:MINUTES,evaluate,rl,time}
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
out=${OUT:?OUT: name the folder for what comes back}
state=${STATE:-/tmp/study} device=${DEVICE:-cuda} workers=${WORKERS:-$(nproc)} python=${PYTHON:-python3}
mkdir -p "$out" "$state/worlds"
out=$(cd "$out" && pwd) state=$(cd "$state" && pwd)
exec > >(tee -a "$out/log.txt") 2>&1

export PYTHONPATH=$repo${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 MUJOCO_GL=${MUJOCO_GL:-egl}
if [ -n "${WHEELS:-}" ]; then
  wheels=$(cd "$WHEELS" && pwd)
  [ -e "$state/site/.installed" ] || { "$python" -m pip install -q --no-index --no-deps --no-cache-dir \
    --upgrade --target "$state/site" "$wheels"/*.whl && touch "$state/site/.installed"; } || exit 1
  export PYTHONPATH=$PYTHONPATH:$state/site
  if [ -d "$wheels/gl" ] && ! ldconfig -p | grep -q libEGL.so; then # the loader; the driver brings the rest
    for package in "$wheels"/gl/*.deb; do dpkg -x "$package" /; done
    ldconfig
  fi
  vendor=/usr/local/nvidia/share/glvnd/egl_vendor.d/10_nvidia.json
  [ -e "$vendor" ] && export __EGL_VENDOR_LIBRARY_FILENAMES=$vendor
  [ -e "$wheels/sentences.safetensors" ] && export WORLDGYMNAST_SENTENCES=$wheels/sentences.safetensors
fi

failed=()
# limited MINUTES WHAT COMMAND...: notes a failure, also that of taking too long
limited() {
  local minutes=$1 what=$2 began=$SECONDS code=0
  shift 2
  echo "== $what (at most $minutes minutes)"
  timeout -k 15 "$(awk "BEGIN { print int(60 * $minutes) + 1 }")" "$@" || code=$?
  echo "== $what: $((SECONDS - began)) seconds, exit code $code"
  [ "$code" = 0 ] || failed+=("$what")
}
worlds=("$python" -m studies.worlds)
current() { # the folder of the variant that was named last
  local name=${variant:-$(cat "$state/variant" 2>/dev/null)}
  if [ -z "$name" ]; then echo "no variant is trained yet: begin with train:VARIANT:MINUTES" >&2; fi
  echo "$state/worlds/${name:-none}"
}
recording() { # $0 is the share; sets side by side, the policy's and the logged ones with most of the processes
  local code=0 job jobs=() set
  for set in $("$python" -m studies.worlds sets); do
    case $set in policy) share=3 ;; logged) share=5 ;; *) share=16 ;; esac
    "$python" -m studies.worlds record "$state/data" --share "$0" --only "$set" \
      --workers $((workers / share > 1 ? workers / share : 1)) &
    jobs+=($!)
  done
  for job in "${jobs[@]}"; do wait "$job" || code=1; done
  return $code
}
exploring() { # $0 is the folder: FIRST COUNT
  local code=0 job jobs=() number
  for ((number = $1; number < $1 + $2; number++)); do
    OMP_NUM_THREADS=1 "$python" -m studies.explorers "$0" "$number" --data "$state/data" --device "$device" \
      --workers $((workers / $2 > 1 ? workers / $2 : 1)) ${EXPLORE_FLAGS:-} &
    jobs+=($!)
  done
  for job in "${jobs[@]}"; do wait "$job" || code=1; done
  return $code
}
timing() { # FLAG...: ways and batches in processes of their own, so that one that does not fit costs no other
  local ways code=0 flags=${TIMED:---size bridge-600m --batches 1 8 32 128}
  set -o pipefail
  for ways in c b; do
    # shellcheck disable=SC2086
    "$python" "$repo/benchmarks/imagination.py" $flags --device "$device" --ways $ways --horizons 20 40 "$@" \
      | tee -a "$state/timing.md" || code=1
  done
  return $code
}
vlas() { # a process for each, so that one that does not fit costs no other
  local kind rows code=0
  set -o pipefail
  for kind in ${VLAS:-SmolVLA Pi0 Pi05 OpenVLA}; do
    for rows in 1 8; do
      "$python" -m benchmarks.vla_speed "$kind" --rows $rows --update --device "$device" | tee -a "$state/vla.md" || code=1
    done
  done
  return $code
}
leave() { # what there is so far, into OUT
  local folder name
  folder=$(current 2>/dev/null)
  cp "$folder/numbers.json" "$out/" 2>/dev/null || rm -f "$out/numbers.json"
  cp "$state"/{timing,vla}.md "$out/" 2>/dev/null
  name=$(basename "$folder")
  (cd "$state" && "$python" -m studies.parcel pack "$out" "worlds/$name"/{plan,judge,numbers}.json \
    "worlds/$name"/world-16.safetensors "worlds/$name"/judge/judge.safetensors \
    worlds/*/explorer-*/explorer-16.safetensors \
    "worlds/$name"/{world,judge}/metrics.jsonl "worlds/$name"/quickstart/{evaluation,stages}.json \
    "worlds/$name"/quickstart/rl/{policy.safetensors,metrics.jsonl} worlds/*/numbers.json)
}
export -f timing recording exploring vlas
export python repo device state workers TIMED

{ # read whole before it runs, so that the script may be edited meanwhile
IFS=, read -ra list <<<"$parts"
for part in "${list[@]}"; do
  IFS=: read -r name first second third fourth <<<"$part"
  case $name in
    record)
      OMP_NUM_THREADS=1 limited 10 record bash -c recording "${first:-1}" ;;
    train)
      variant=$first
      echo "$variant" >"$state/variant"
      # the limit has room for reading and for the last checkpoint; the training plans with its own
      limited "$(awk "BEGIN { print $second + 1.5 }")" "train $variant" "${worlds[@]}" train "$variant" "$(current)" \
        --data "$state/data" --minutes "$second" --device "$device" ${TRAIN_FLAGS:-} ;;
    graphed)
      variant=${third:-$first}
      echo "$variant" >"$state/variant"
      begun=${fourth:-starter}
      [ -e "$state/worlds/$begun/world/world.safetensors" ] && begun=$state/worlds/$begun/world/world.safetensors
      limited "$(awk "BEGIN { print $second / 60 + 1.5 }")" "graphed $variant" "$python" -m studies.graphed \
        "$first" "$(current)" --data "$state/data" --seconds "$second" --start "$begun" --device "$device" \
        ${TRAIN_FLAGS:-} ;;
    explore) limited 5 explore bash -c exploring "$(current 2>/dev/null)" "$first" "$second" ;;
    judge)
      limited "$(awk "BEGIN { print $first + 1.5 }")" judge "${worlds[@]}" judge "$(current)" --data "$state/data" \
        --minutes "$first" --device "$device" ;;
    evaluate)
      limited 6 evaluate "${worlds[@]}" evaluate "$(current)" --data "$state/data" --episodes "${first:-240}" \
        --device "$device" ;;
    rl)
      folder=$(current)
      limited "${first:-10}" rl "$python" -m worldgymnast quickstart --out "$folder/quickstart" --device "$device" \
        --world "$folder/world/world.safetensors" --judge "$folder/judge/judge.safetensors" \
        --finetune.workers "$workers" --score.workers "$workers" ${RL_FLAGS:-} ;;
    time) limited "${first:-8}" time bash -c timing ;;
    time-compiled) limited "${first:-8}" "time, compiled" bash -c 'timing --compile' ;;
    vla) limited "${first:-8}" vla bash -c vlas ;;
    *)
      echo "part: found '$name', expected record, train, graphed, explore, judge, evaluate, rl, time, time-compiled or vla"
      failed+=("$name") ;;
  esac
  leave >/dev/null
done
ls -l "$out"
if [ ${#failed[@]} -gt 0 ]; then
  echo "failed: ${failed[*]}; call again with the same parts to resume"
  exit 1
fi
exit 0
}
