#!/usr/bin/env bash
# A robot's whole method from nothing on a machine with a GPU and many cores: the parts of studies/from_nothing.py in
# order, those that can run side by side so. What is finished is skipped when the script is called again.
#
#   STATE=runs/libero studies/from_nothing.sh libero
#
# STATE   run folder; STATE/stages.log has the time of every part
# DEVICE  cuda; WORKERS number of cores; PYTHON python3
# WORLD   seconds of the world model's training, of its finetuning after exploration, and of the autoencoder: 300 150 60
# CLIPS   clips per step: 96
set -uo pipefail
recipe=${1:?usage: STATE=folder studies/from_nothing.sh RECIPE}
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
state=${STATE:-runs/$recipe} device=${DEVICE:-cuda} workers=${WORKERS:-$(nproc)} python=${PYTHON:-python3}
read -r first second frames <<<"${WORLD:-300 150 60}"
export PYTHONPATH=$repo${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 MUJOCO_GL=${MUJOCO_GL:-egl}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
mkdir -p "$state"

# part NAME COMMAND FLAG...: skipped where NAME.done is
part() {
  local name=$1 began=$SECONDS code=0
  shift
  [ -e "$state/$name.done" ] && return 0
  "$python" -m studies.from_nothing "$1" --recipe "$recipe" --out "$state" --device "$device" "${@:2}" \
    >"$state/$name.log" 2>&1 || code=$?
  echo "$name: $((SECONDS - began)) s, code $code, at $SECONDS" | tee -a "$state/stages.log"
  [ "$code" = 0 ] && touch "$state/$name.done" || tail -n 5 "$state/$name.log" | cut -c1-800 | tee -a "$state/stages.log"
  return $code
}
# all JOB...: waits for background jobs, and fails if one does
all() {
  local code=0 job
  for job in "$@"; do wait "$job" || code=1; done
  return $code
}
third=$((workers > 3 ? workers / 3 : 1))

part record record --name logged --workers "$workers" || exit 1
part imitate imitate || exit 1
part record-policy record --name policy --workers $((workers > 4 ? workers * 3 / 4 : workers)) &
policy=$!
part record-held-out record --name held_out --workers $((workers > 4 ? workers / 4 : 1)) &
all $policy $! || exit 1
part world-1 world --seconds "$first" --frames "$frames" --clips "${CLIPS:-96}" || exit 1
part judge-1 judge || exit 1
part diagnose-1 diagnose &
diagnosis=$! jobs=()
part record-planned-0 record --name planned-0 --workers $third &
jobs+=($!)
for n in 1 2; do # what RL finds in the world model, executed for real
  { part "explore-$n" rl --explorer --seed $n && part "record-planned-$n" record --name "planned-$n" \
    --actor "$state/round-1/explorer-$n/policy.safetensors" --workers $third; } &
  jobs+=($!)
done
all "${jobs[@]}" || exit 1
wait $diagnosis
part world-2 world --round 2 --seconds "$second" --lr 6e-4 --clips "${CLIPS:-96}" || exit 1
part judge-2 judge --round 2 || exit 1
part adapt adapt --round 2 || exit 1
part diagnose-2 diagnose --round 2 &
diagnosis=$! jobs=()
for n in 0 1 2; do
  part "rl-$n" rl --round 2 --seed $n --workers $third &
  jobs+=($!)
done
all "${jobs[@]}" || exit 1
wait $diagnosis
part evaluate evaluate --round 2 --seeds 0 1 2 --workers "$workers" || exit 1
echo "done" >>"$state/stages.log"
