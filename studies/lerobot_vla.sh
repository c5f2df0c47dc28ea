#!/bin/sh
# Published policies, finetuned here, go back to lerobot: recorded and written by lerobot, described (import-policy),
# trained two steps (sft, LoRA), exported merged and as an adapter, loaded by lerobot's own classes, actions compared.
#
#   sh studies/lerobot_vla.sh PYTHON LEROBOT [WORK] [KIND...] >transcript.txt
#
# PYTHON is an interpreter with worldgymnast; LEROBOT the bin/ of an environment of its own: Python 3.12 and
# `pip install "lerobot[dataset,training,smolvla,pi,peft]==0.6.1"`. KIND: smolvla, pi0, pi05; default all.
set -eu
python=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
lerobot=$(cd "$2" && pwd)
here=$(cd "$(dirname "$0")/.." && pwd)
work=${3:-$(mktemp -d)}
[ $# -le 3 ] && set -- "$1" "$2" "$work" smolvla pi0 pi05
shift 3
mkdir -p "$work" && cd "$work"
export HF_HUB_OFFLINE=1 HF_HOME="$work/hf" TOKENIZERS_PARALLELISM=false PYTHONPATH="$here" COLUMNS=100

run() {
    echo "\$ worldgymnast $*"
    "$python" -m worldgymnast "$@" >out.log 2>&1 || { tail out.log; exit 1; }
}
by_lerobot() {
    echo "\$ python studies/$*      # lerobot's environment"
    script=$1 && shift
    PYTHONPATH='' PATH="$lerobot:$PATH" "$lerobot/python" "$here/studies/$script" "$@" >out.log 2>err.log ||
        { tail out.log err.log; exit 1; }
    tail -1 out.log
}

[ -d data/mine ] || by_lerobot lerobot_owner.py record data/mine 0 2
for kind in "$@"; do
    heads="head=4 vision_heads=2"
    [ "$kind" = smolvla ] && heads="head=8 vision_heads=2"
    by_lerobot lerobot_vla.py prepare "$kind" data/mine "$kind"
    # shellcheck disable=SC2086
    run import-policy "$kind" --out "$kind.json" --action-spec data/mine --tokenizer "$kind-words" \
        --set $heads lora_rank=2
    run sft data/mine --image-key front wrist --state --begin-with "$kind.json" --fit.steps 2 --batch 2 --out "sft-$kind"
    run export-policy "sft-$kind/policy.safetensors" --base "$kind.json" --out "$kind-merged"
    run export-policy "sft-$kind/policy.safetensors" --base "$kind.json" --out "$kind-adapter" --adapter-only
    (cd "$here" && "$python" -m studies.lerobot_vla actions "$work/sft-$kind/policy.safetensors" "$work/$kind.json" \
        "$work/$kind.safetensors")
    by_lerobot lerobot_vla.py compare "$kind" "$kind-merged" "$kind.safetensors"
    by_lerobot lerobot_vla.py compare "$kind" "$kind-adapter" "$kind.safetensors"
done
