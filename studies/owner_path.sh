#!/bin/sh
# A LeRobot owner's path: a data set that lerobot writes, and every command of "Your own data" in order.
#
#   sh studies/owner_path.sh PYTHON LEROBOT [WORK] >transcript.txt
#
# PYTHON is an interpreter with worldgymnast; LEROBOT the bin/ of lerobot's own environment (see lerobot_owner.py).
# Trainings are cut to minutes on two cores (STEPS below); without these flags they take their default lengths.
set -eu
python=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
lerobot=$(cd "$2" && pwd)
here=$(cd "$(dirname "$0")/.." && pwd)
work=${3:-$(mktemp -d)}
mkdir -p "$work" && cd "$work"
export HF_HUB_OFFLINE=1 HF_HOME="$work/hf" TOKENIZERS_PARALLELISM=false PYTHONPATH="$here" COLUMNS=100

# Runs and prints a command; lines of progress bars are left out. $1 is its expected exit code.
run() {
    expected=$1 && shift
    echo "\$ worldgymnast $*"
    code=0
    "$python" -m worldgymnast "$@" >out.log 2>&1 || code=$?
    tr '\r' '\n' <out.log | grep -v -e 's, .* left, ' -e 's, .* left$' -e '%|' || true
    [ "$code" = "$expected" ] || { echo "exit code $code, expected $expected"; exit 1; }
    echo
}
by_lerobot() {
    echo "\$ python studies/lerobot_owner.py $*      # lerobot's environment"
    PYTHONPATH='' PATH="$lerobot:$PATH" "$lerobot/python" "$here/studies/lerobot_owner.py" "$@" 2>err.log || { tail err.log; exit 1; }
    echo
}

by_lerobot record data/mine
run 0 data check data/mine
run 0 label data/mine --csv data/mine.csv --out data/labels.jsonl # or --by-hand, in the browser
cameras="--image-key front wrist"
# shellcheck disable=SC2086
run 0 sft data/mine $cameras --labels data/labels.jsonl --state --policy.cameras front wrist --fit.steps 150 \
    --batch 32 --out runs/sft
# shellcheck disable=SC2086
run 0 train-world data/mine --labels data/labels.jsonl $cameras --state --autoencoder.steps 150 \
    --fit.steps 120 --clips 4 --out runs/world
run 0 train-judge data/mine --labels data/labels.jsonl --world runs/world/world.safetensors --fit.steps 60 --batch 32 \
    --out runs/judge
run 0 diagnose data/mine --held-out auto --labels data/labels.jsonl --world runs/world/world.safetensors \
    --judge runs/judge/judge.safetensors --out runs/diagnosis
run 0 rl quickstart --data data/mine --labels data/labels.jsonl --policy runs/sft/policy.safetensors \
    --world runs/world/world.safetensors --judge runs/judge/judge.safetensors --rl.steps 3 --rl.starts 4 \
    --rl.group-size 4 --out runs/rl
by_lerobot record data/tuesday 100 6
run 0 data add data/mine data/tuesday --in-place
by_lerobot load data/mine
echo "\$ python -m studies.lerobot_owner write data/ours"
"$python" -m studies.lerobot_owner write data/ours 2>/dev/null
echo
by_lerobot train data/ours
