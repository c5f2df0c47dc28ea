#!/bin/sh
# What is written here, in the hands of the real lerobot: load, split, delete, and two training steps of ACT.
#
#   sh benchmarks/lerobot_roundtrip.sh PYTHON LEROBOT_BIN [WORK]
#
# PYTHON is an interpreter with worldgymnast; LEROBOT_BIN the bin/ of an environment of its own (Python 3.12,
# `pip install "lerobot[dataset,training]==0.6.1"`, some GB with PyTorch). Everything runs on the CPU and offline.
set -eu
python=$1
lerobot=$2
work=${3:-$(mktemp -d)}
here=$(cd "$(dirname "$0")" && pwd)
export HF_HUB_OFFLINE=1 HF_HOME="$work/hf" TOKENIZERS_PARALLELISM=false

"$python" "$here/lerobot_roundtrip.py" write "$work"
for name in recorded converted; do
    set="$work/$name"
    "$lerobot/lerobot-edit-dataset" --repo_id x/set --root "$set" --new_repo_id x/del --new_root "$set-deleted" \
        --operation.type delete_episodes --operation.episode_indices "[1]" >"$set-delete.log" 2>&1
    "$lerobot/lerobot-edit-dataset" --repo_id x/set --root "$set" --new_root "$set-split" \
        --operation.type split --operation.splits '{"train": [0, 1], "val": [2, 3]}' >"$set-split.log" 2>&1
    for part in "$set" "$set-deleted" "$set-split/train" "$set-split/val"; do
        "$lerobot/python" "$here/lerobot_roundtrip.py" load "$part" 2>"$work/load.log"
        if grep -i "unknown field" "$work/load.log"; then exit 1; fi
        "$python" "$here/lerobot_roundtrip.py" read "$part"
    done
    "$lerobot/lerobot-train" --dataset.repo_id=x/set --dataset.root="$set" --policy.type=act --policy.device=cpu \
        --policy.push_to_hub=false --policy.pretrained_backbone_weights=null --policy.chunk_size=8 \
        --policy.n_action_steps=8 --policy.dim_model=64 --policy.dim_feedforward=64 --policy.n_heads=2 \
        --steps=2 --batch_size=2 --num_workers=0 --log_freq=1 --save_checkpoint=false --wandb.enable=false \
        --output_dir="$set-act" >"$set-act.log" 2>&1
    grep -o "step:[0-9]* .*loss:[0-9.]*" "$set-act.log"
done
echo "lerobot loads, splits, deletes and trains on both; $work holds the logs"
