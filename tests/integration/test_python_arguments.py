"""Wrong arguments of the Python API, in a plain script: one line each, before anything is trained."""

import json
import re
import subprocess
import sys
from pathlib import Path

import torch
from places import ROOT

SETUP = """
import json, sys
from pathlib import Path
import numpy as np
import worldgymnast as wg
from worldgymnast.actions import BRIDGE, metaworld_spec
from worldgymnast.episodes.windows import from_episodes

out = Path(sys.argv[1])
policy, world, judge = (wg.starter(name) for name in ("policy", "world", "judge"))
scene = wg.Start(np.zeros((64, 64, 3), np.uint8), "close the door", "door-close")
small = wg.Start(np.zeros((48, 48, 3), np.uint8), "close the door", "door-close")

def episodes(*outcomes, size=64):
    frames, actions = np.zeros((5, size, size, 3), np.uint8), np.zeros((4, 4), np.float32)
    spec = metaworld_spec(6)
    return from_episodes([
        wg.Episode(frames, actions, "close the door", "door-close", spec.rate, spec, np.full(5, success))
        for success in outcomes
    ])

def finetune(**wrong):
    given = {"policy": policy, "world": world, "judge": judge, "starts": [scene]} | wrong
    return wg.finetune(**given, steps=1, horizon=2, out=out / "run")

robot = wg.metaworld(tasks=["door-close"])
"""
CASES = {
    "wg.Start(np.zeros((3, 64, 64), np.uint8), 'close the door')": r"start: frame has shape \[3, 64, 64\], expected",
    "wg.Start(np.zeros((64, 64, 3), np.float32), 'close the door')": "start: frame has dtype float32, expected uint8",
    "wg.Start(scene.frame, ['close', 'the door'])": "start: instruction is list, expected str",
    "wg.Start(scene.frame, 'close the door', None)": "start: task is NoneType, expected str",
    "finetune(policy=object())": "policy: object has no act, action_spec, .*, which a Policy needs",
    "finetune(policy=None)": "policy: NoneType has no act, ",
    "finetune(policy=wg.Policy)": "policy: found the class Policy, expected an instance",
    "finetune(policy=wg.load_world(world))": "policy: LatentWorldModel has no act, ",
    "finetune(world=object())": "world: object has no action_spec, fps, frame_size, identity, start, step, which",
    "finetune(judge=object())": "judge: object has no identity, is_remote, name, score, which a Judge needs",
    "finetune(starts=object())": "starts: found object, expected a wg.Start",
    "finetune(starts=[scene, 3])": "starts: found int, expected a wg.Start",
    "finetune(starts=[])": "starts is empty",
    "finetune(starts='data/mine')": "starts: found str, expected a wg.Start",
    "finetune(starts=small)": "starts: found frames of 48x48 pixels, but the world model imagines 64x64",
    "finetune(starts=episodes(True, size=48))": "starts: found frames of 48x48 pixels",
    "finetune(starts=wg.metaworld(size=48))": "starts: found frames of 48x48 pixels",
    "finetune(scorer=wg.scorer(wg.metaworld(size=48)))": "scorer: found frames of 48x48 pixels",
    "finetune(scorer=robot)": r"scorer: found MetaWorld, expected Scorer. Make one with wg.scorer\(env\)",
    "finetune(config={'group_size': 2})": "config: found dict, expected ReinforceConfig",
    "finetune(device='gpu')": 'device: found "gpu", expected cpu or cuda',
    "finetune(device='cuda')": "device: found 'cuda', but no cuda device is available. Use device='cpu'",
    "wg.load_policy(policy, 'cuda')": "device: found 'cuda', but no cuda device",
    "wg.train_world(episodes(True), device='cuda:0')": "device: found 'cuda:0', but no cuda device",
    "wg.train_policy([scene])": "episodes: found list, expected EpisodeSet. Read a folder with wg.read",
    "wg.train_judge(episodes(False, False), wg.load_world(world))": "each of the 2 labelled episodes is a failure",
    "wg.train_judge(episodes(True), wg.load_world(world))": "the only labelled episode is a success",
    "wg.train_judge(episodes(True, False, True, size=48), wg.load_world(world))": (
        "episodes: found frames of 48x48 pixels"
    ),
    "wg.imagine(wg.load_policy(policy), wg.load_world(world), small)": "starts: found frames of 48x48 pixels",
    "wg.imagine(wg.load_policy(policy), wg.load_world(world), None)": "start: found NoneType, expected Start",
    "wg.metaworld(tasks=('door-clsoe',))": "field 'tasks': found 'door-clsoe', .*did you mean 'door-close'",
    "wg.metaworld(tasks='door-clsoe')": "did you mean 'door-close'",
    "wg.scorer(episodes(True))": "env: EpisodeSet has no action_spec, .*, which a RealEnvironment needs",
    "wg.evaluate([policy], robot)": "policies: found list, expected policies or their files by name",
    "wg.evaluate({'a': object()}, robot)": r"policies\['a'\]: object has no act, ",
    "wg.evaluate({'a': policy}, object())": "env: object has no action_spec, ",
    "wg.starts(episodes(False), middle=0.5)": "middle: found 0.5, but no episode succeeds",
    "wg.starts(episodes(True), middle=5)": "middle: found 5, expected a share from 0 to 1",
    "wg.starts(robot, per_task=0)": "per_task: found 0, expected 1 or more",
    "wg.save(object(), out / 'x.safetensors')": "object has no state_dict, so it has no weights to save",
    "wg.save(wg.load_policy(policy), '/proc/x.safetensors')": "/proc/x.safetensors: cannot be written .No such file",
    "wg.save(wg.load_policy(policy), out)": "cannot be written .Is a directory",
    "wg.save(wg.load_policy(policy), policy / 'x')": "cannot be written .(Not a directory|File exists)",
}
ENDING = """
found = {}
for case in json.loads(sys.argv[2]):
    try:
        found[case] = f"no error: {eval(case)!r}"
    except wg.InputError as error:
        found[case] = f"one line: {error}"
    except Exception as error:
        found[case] = f"{type(error).__name__}: {error}"
print(json.dumps([found, (out / "run").exists(), wg.scorer(robot).config.workers]))
"""


def test_wrong_arguments_are_one_line_in_a_plain_script(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SETUP + ENDING)
    cases = [case for case in CASES if not ("cuda" in case and torch.cuda.is_available())]
    words = [sys.executable, str(script), str(tmp_path), json.dumps(cases)]
    run = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    found, has_begun, workers = json.loads(run.stdout.splitlines()[-1])
    wrong = [f"{case}: {found[case]}" for case in cases if not re.match(f"one line: .*{CASES[case]}", found[case])]
    assert not wrong, "\n".join(wrong)
    assert not any("\n" in line for line in found.values())
    assert not has_begun
    assert workers == 1
