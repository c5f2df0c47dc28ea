"""What each command takes, and which loop it calls. `cli` fills these in from the command line.

A field named `config` lends its fields as flags without a prefix: `worldgymnast rl metaworld --rl.group-size 4`.
"""

from worldgymnast.cli.command import Command
from worldgymnast.cli.commands.adapt import Adapt
from worldgymnast.cli.commands.agree import Agree
from worldgymnast.cli.commands.baselines import IterSft, RlSimulator
from worldgymnast.cli.commands.best_of import BestOfN
from worldgymnast.cli.commands.data import DataCheck, DataConvert, Record, RecordPolicy
from worldgymnast.cli.commands.describe import JudgeCascade, JudgeEnsemble, JudgeForeseen, JudgeLocal, JudgeVLM
from worldgymnast.cli.commands.diagnose import Diagnose
from worldgymnast.cli.commands.judge import JudgeCalibrate, JudgeCompare
from worldgymnast.cli.commands.measure import Evaluate, EvalWorld, Report
from worldgymnast.cli.commands.published import ImportWorld
from worldgymnast.cli.commands.scenes import ScenesDistract, ScenesPhotograph, ScenesPlate, ScenesPropose
from worldgymnast.cli.commands.train import Distill, Rl, Sft, TrainJudge, TrainWorld
from worldgymnast.cli.commands.whole import Doctor, Dyna, Quickstart, Reproduce

__all__ = ["KINDS", "Command"]

KINDS: dict[str, type[Command]] = {
    "doctor": Doctor,
    "quickstart": Quickstart,
    "reproduce": Reproduce,
    "record": Record,
    "record-policy": RecordPolicy,
    "data check": DataCheck,
    "data convert": DataConvert,
    "scenes photograph": ScenesPhotograph,
    "scenes distract": ScenesDistract,
    "scenes propose": ScenesPropose,
    "scenes plate": ScenesPlate,
    "sft": Sft,
    "train-world": TrainWorld,
    "distill": Distill,
    "train-judge": TrainJudge,
    "rl": Rl,
    "adapt": Adapt,
    "dyna": Dyna,
    "iter-sft": IterSft,
    "rl-simulator": RlSimulator,
    "import-world": ImportWorld,
    "judge vlm": JudgeVLM,
    "judge local": JudgeLocal,
    "judge foreseen": JudgeForeseen,
    "judge cascade": JudgeCascade,
    "judge ensemble": JudgeEnsemble,
    "evaluate": Evaluate,
    "eval-world": EvalWorld,
    "diagnose": Diagnose,
    "agree": Agree,
    "best-of": BestOfN,
    "judge calibrate": JudgeCalibrate,
    "judge compare": JudgeCompare,
    "report": Report,
}
