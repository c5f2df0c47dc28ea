"""The commands: dataclasses whose fields are flags, and which run when called.

The fields of a field named `config` become flags without a prefix: `worldgymnast rl metaworld --rl.group-size 4`.
"""

from worldgymnast.cli.command import Command
from worldgymnast.cli.commands.adapt import Adapt
from worldgymnast.cli.commands.agree import Agree
from worldgymnast.cli.commands.baselines import IterSft, RlSimulator
from worldgymnast.cli.commands.best_of import BestOfN
from worldgymnast.cli.commands.check_env import CheckEnv
from worldgymnast.cli.commands.data import DataAdd, DataCheck, DataConvert, Record, RecordPolicy
from worldgymnast.cli.commands.diagnose import Diagnose
from worldgymnast.cli.commands.export_rerun import ExportRerun
from worldgymnast.cli.commands.import_world import ImportWorld
from worldgymnast.cli.commands.judge_evaluation import JudgeCalibrate, JudgeCompare
from worldgymnast.cli.commands.judge_files import JudgeCascade, JudgeEnsemble, JudgeForeseen, JudgeLocal, JudgeVLM
from worldgymnast.cli.commands.label import LabelEpisodes
from worldgymnast.cli.commands.measure import Evaluate, EvalWorld, Report
from worldgymnast.cli.commands.pipelines import Doctor, Dyna, Quickstart, Reproduce
from worldgymnast.cli.commands.plan import Plan
from worldgymnast.cli.commands.play import Play, WatchRun
from worldgymnast.cli.commands.publish import ExportPolicy, ImportPolicy, Push
from worldgymnast.cli.commands.rl import Rl
from worldgymnast.cli.commands.scenes import ScenesDistract, ScenesPhotograph, ScenesPlate, ScenesPropose
from worldgymnast.cli.commands.train import Distill, Sft, TrainJudge, TrainWorld

__all__ = ["KINDS", "Command"]

KINDS: dict[str, type[Command]] = {
    "doctor": Doctor,
    "check-env": CheckEnv,
    "plan": Plan,
    "play": Play,
    "quickstart": Quickstart,
    "reproduce": Reproduce,
    "record": Record,
    "record-policy": RecordPolicy,
    "data check": DataCheck,
    "data convert": DataConvert,
    "data add": DataAdd,
    "label": LabelEpisodes,
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
    "import-policy": ImportPolicy,
    "export-policy": ExportPolicy,
    "push": Push,
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
    "export-rerun": ExportRerun,
    "watch": WatchRun,
}
