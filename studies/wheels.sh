#!/usr/bin/env bash
# Collects in DIR, from PyPI, what studies/on_gpu.sh needs on a Linux x86-64 machine that has PyTorch and the usual
# scientific packages, but no network: studies/wheels.sh DIR
#
# Left out for their size: PyAV (35 MB: data are recorded as plain files instead, and there are no videos), the sentence
# encoder (88 MB: sentences.safetensors has the vectors of every sentence that is needed), and what Meta-World's scenes
# outside the suite load (33 MB).
# TARGET=3.12 is that machine's Python, PYTHON the one here, in which worldgymnast is installed.
set -euo pipefail
dir=${1:?usage: studies/wheels.sh DIR}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${PYTHON:-python3}
names=(tyro docstring_parser typeguard pydantic pydantic_core annotated-types typing-inspection typing_extensions
  gymnasium Farama-Notifications mujoco glfw PyOpenGL metaworld diffusers
  google-crc32c importlib_metadata)

mkdir -p "$dir"
platforms=(--platform manylinux1_x86_64 --platform manylinux2014_x86_64)
for minor in 17 24 27 28 31 34; do platforms+=(--platform "manylinux_2_${minor}_x86_64"); done
pinned=()
for name in "${names[@]}"; do pinned+=("$(grep -i "^$name==" "$here/../constraints.txt")"); done
"$python" -m pip download -q --no-deps --only-binary=:all: --python-version "${TARGET:-3.12}" --implementation cp \
  "${platforms[@]}" -d "$dir" "${pinned[@]}"

export PYTHONPATH=$here/..${PYTHONPATH:+:$PYTHONPATH}
for wheel in "$dir"/metaworld-*.whl; do "$python" -m studies.slim_metaworld "$wheel"; done
"$python" -m studies.worlds sentences "$dir/sentences.safetensors"
if command -v apt-get >/dev/null; then # the loader of OpenGL, which a machine with a driver may lack
  mkdir -p "$dir/gl"
  (cd "$dir/gl" && apt-get -qq -o APT::Sandbox::User=root download libegl1 libglvnd0 libopengl0 libgl1 libglx0 libgles2)
fi
du -ch --apparent-size "$dir"/* | sort -h
