"""A damaged, exchanged or read-only run folder yields the right weights or a one-line error."""

import contextlib
import errno
import io
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from run_builders import CONFIG, Stopped, outcome, seed_run, train

import worldgymnast.run as run_module
from worldgymnast import processes, records, streams
from worldgymnast.cli.main import main
from worldgymnast.configs import LARGEST_SEED
from worldgymnast.errors import InputError
from worldgymnast.evaluation.success import EpisodeResult, success_table
from worldgymnast.report.collect import collect
from worldgymnast.report.markdown import markdown
from worldgymnast.report.report import Curve, Report, Series, render
from worldgymnast.run import Run, load_weights, save_weights
from worldgymnast.staging import TEMPORARY
from worldgymnast.training.fit import FitConfig
from worldgymnast.weights import write_text


def refusal(act: Callable[[], object]) -> str:
    """The one line that it ends in."""
    with pytest.raises(InputError) as error:
        act()
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 500
    return text


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A training that was killed at its last step but one, a finished one, a run to report on, and the right hash."""
    root = tmp_path_factory.mktemp("runs")
    with pytest.raises(Stopped):
        train(root / "half", finish=False, steps=5)
    right = train(root / "whole")
    seed_run(root)
    for events in root.rglob("tensorboard"):
        shutil.rmtree(events)
    return {name: root / name for name in ("half", "whole", "run")} | {"right": right}


@pytest.fixture
def half(made: dict[str, Any], tmp_path: Path) -> Path:
    return Path(shutil.copytree(made["half"], tmp_path / "half"))


@pytest.fixture
def whole(made: dict[str, Any], tmp_path: Path) -> Path:
    return Path(shutil.copytree(made["whole"], tmp_path / "whole"))


@pytest.fixture
def seen(made: dict[str, Any], tmp_path: Path) -> Path:
    """A run to report on."""
    return Path(shutil.copytree(made["run"], tmp_path / "seen"))


def newest(folder: Path) -> Path:
    return sorted((folder / "checkpoints").glob("step-*"))[-1]


def edit_state(folder: Path, **change: Any) -> None:
    file = newest(folder) / "state.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))


# ---------------------------------------------------------------- checkpoints


def _flip(file: Path, seed: int = 0) -> None:
    content = bytearray(file.read_bytes())
    content[-1 - random.Random(seed).randrange(40)] ^= 4
    file.write_bytes(content)


def _swap_steps(folder: Path) -> None:
    first, second = sorted((folder / "checkpoints").glob("step-*"))
    shutil.copy(first / "tensors.safetensors", second / "tensors.safetensors")


def _rename_step(folder: Path) -> None:
    newest(folder).rename(folder / "checkpoints" / "step-00000099")


def _copy_of_another_run(folder: Path) -> None:
    other = folder.parent / "other"
    with Run(other, {"another": "config"}, command="other") as run:
        run.save(4, load_weights(newest(folder) / "tensors.safetensors")[0], {"optimizer": {"state": {}, "groups": []}})
    shutil.rmtree(newest(folder))
    shutil.copytree(other / "checkpoints" / "step-00000004", folder / "checkpoints" / "step-00000004")


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a bit of the weights or the optimizer": lambda f: _flip(newest(f) / "tensors.safetensors"),
    "weights of another step": _swap_steps,
    "a checkpoint under another step": _rename_step,
    "a checkpoint of another run": _copy_of_another_run,
    "state zero bytes": lambda f: (newest(f) / "state.json").write_bytes(b""),
    "state half": lambda f: (newest(f) / "state.json").write_text('{"step": 4, "sta'),
    "state NUL": lambda f: (newest(f) / "state.json").write_bytes(bytes(500)),
    "state a list": lambda f: (newest(f) / "state.json").write_text("[]"),
    "state deep": lambda f: (newest(f) / "state.json").write_text("[" * 100_000),
    "state not UTF-8": lambda f: (newest(f) / "state.json").write_bytes(b'{"step": "\xff"}'),
    "state missing": lambda f: (newest(f) / "state.json").unlink(),
    "state of text": lambda f: edit_state(f, state="x"),
    "state null": lambda f: edit_state(f, state=None),
    "state changed": lambda f: edit_state(f, state={"optimizer": {"state": {}, "groups": []}}),
    "step text": lambda f: edit_state(f, step="4"),
    "step negative": lambda f: edit_state(f, step=-4),
    "step huge": lambda f: edit_state(f, step=10**30),
    "step true": lambda f: edit_state(f, step=True),
    "hash a number": lambda f: edit_state(f, sha256=3),
    "tensors missing": lambda f: (newest(f) / "tensors.safetensors").unlink(),
    "tensors a folder": lambda f: [
        (newest(f) / "tensors.safetensors").unlink(), (newest(f) / "tensors.safetensors").mkdir()
    ],
    "an empty checkpoint": lambda f: (f / "checkpoints" / "step-00000050").mkdir(),
    "two empty checkpoints": lambda f: [(f / "checkpoints" / f"step-0000005{i}").mkdir() for i in range(2)],
    "a file named like one": lambda f: (f / "checkpoints" / "step-00000050").write_text("x"),
    "another name": lambda f: (f / "checkpoints" / "step-last").mkdir(),
    "left-over files of a save": lambda f: [
        (f / "checkpoints" / ".tmp-step-00000006").mkdir(), (f / "checkpoints" / ".tmp-x").write_text("x")
    ],
    "metrics half a line and a newline": lambda f: _append(f, '{"step": 4, "lo\n'),
    "metrics half a line, then good ones": lambda f: _append(f, '{"st\n{"step": 1, "time": 1, "loss": 3.0}\n'),
    "metrics NUL": lambda f: _append(f, "\0" * 4096),
    "metrics NUL and a newline": lambda f: _append(f, "\0" * 4096 + "\n"),
    "metrics NaN step": lambda f: _append(f, '{"step": NaN}\n'),
    "metrics text step": lambda f: _append(f, '{"step": "3"}\n'),
    "metrics huge step": lambda f: _append(f, '{"step": 99999999999999999999999}\n'),
    "metrics no step": lambda f: _append(f, '{"loss": 3}\n'),
    "metrics a list": lambda f: _append(f, "[1]\n"),
    "metrics deep": lambda f: _append(f, "[" * 100_000 + "\n"),
    "metrics not UTF-8": lambda f: (f / "metrics.jsonl").write_bytes(b"\xff\xfe\n"),
    "metrics twice": lambda f: _append(f, (f / "metrics.jsonl").read_text()),
    "metrics backwards": lambda f: (f / "metrics.jsonl").write_text(
        "".join(line + "\n" for line in (f / "metrics.jsonl").read_text().splitlines()[::-1])
    ),
    "metrics missing": lambda f: (f / "metrics.jsonl").unlink(),
    "a lock left": lambda f: (f / ".lock").write_text("12345"),
    "command not UTF-8": lambda f: (f / "command.txt").write_bytes(b"\xff\n"),
    "versions damaged": lambda f: (f / "versions.json").write_bytes(b"{"),
}  # fmt: skip


def _append(folder: Path, text: str) -> None:
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(text)


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_run_resumes_to_the_weights_of_one_that_was_never_damaged(
    kind: str, half: Path, made: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    DAMAGES[kind](half)
    assert train(half) == made["right"]
    assert "Traceback" not in capsys.readouterr().err
    assert [row["step"] for row in records.read_metrics(half / "metrics.jsonl")][-1] == 5
    assert not list(half.rglob(f"{TEMPORARY}*"))


def test_the_same_weights_without_any_checkpoint_and_it_says_so(
    half: Path, made: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    for place in (half / "checkpoints").iterdir():
        _flip(place / "tensors.safetensors")
    assert train(half) == made["right"]
    said = capsys.readouterr().err
    assert said.count("checkpoint skipped: damaged, or of another run or step") == 2
    assert f"{half}: no readable checkpoint; restarting at step 0" in said


def test_new_checkpoints_outlive_damaged_ones_of_later_steps(half: Path) -> None:
    for step in (50, 51):
        (half / "checkpoints" / f"step-000000{step}").mkdir()
    with Run(half, CONFIG) as run:
        found = run.load()
        assert found is not None
        run.save(5, found.tensors, found.state)
    assert sorted(p.name for p in (half / "checkpoints").iterdir()) == ["step-00000004", "step-00000005"]


def test_checkpoints_of_version_0_1_without_a_hash_resume(half: Path, made: dict[str, Any]) -> None:
    for place in (half / "checkpoints").iterdir():
        file = place / "state.json"
        state = json.loads(file.read_text())
        del state["sha256"]
        file.write_text(json.dumps(state))
    assert train(half) == made["right"]


@pytest.mark.parametrize("state", [{}, {"optimizer": None}, {"optimizer": {"state": {"x": 1}, "groups": [3]}}])
def test_one_without_a_hash_and_of_another_shape_is_one_line(half: Path, state: Any) -> None:
    for place in (half / "checkpoints").iterdir():
        (place / "state.json").write_text(json.dumps({"step": int(place.name[5:]), "state": state}))
    assert "checkpoints: the newest checkpoint does not fit this command" in refusal(lambda: train(half))


# ---------------------------------------------------------------- the folder


def test_a_config_of_another_shape_is_one_line(half: Path) -> None:
    for content, said in (
        (b"", "is not JSON"), (b"[]", "expected a JSON object"), (b"[" * 100_000, "cannot be read as JSON"),
        (b"\xff", "is not UTF-8"), (b"{}", "field 'env'"), (json.dumps({"x": "y" * 5000}).encode(), "field 'env'"),
    ):  # fmt: skip
        (half / "config.json").write_bytes(content)
        assert said in refusal(lambda: train(half))
    (half / "config.json").unlink()
    assert "but no config.json, expected an empty folder" in refusal(lambda: train(half))


def test_a_folder_that_is_none_is_one_line(tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    assert "expected a run folder" in refusal(lambda: Run(loop, CONFIG))
    assert "null byte" in refusal(lambda: Run(tmp_path / "a\0b", CONFIG))
    assert "File name too long" in refusal(lambda: Run(tmp_path / ("x" * 300), CONFIG))
    (tmp_path / "file").write_text("x")
    assert "Not a directory" in refusal(lambda: Run(tmp_path / "file" / "run", CONFIG))


def test_folders_in_the_place_of_files_are_one_line(half: Path) -> None:
    (half / "metrics.jsonl").unlink()
    (half / "metrics.jsonl").symlink_to(half / "metrics.jsonl")
    assert "metrics.jsonl: cannot be used (Too many levels" in refusal(lambda: train(half))
    (half / ".lock").unlink()
    (half / ".lock").mkdir()
    assert "cannot be used" in refusal(lambda: train(half))


def test_left_over_files_are_removed_at_the_next_start(whole: Path, made: dict[str, Any]) -> None:
    (whole / "videos").mkdir()
    for place in (whole, whole / "videos", whole / "checkpoints"):
        (place / f"{TEMPORARY}1-x").mkdir()
        (place / f"{TEMPORARY}2-x").write_text("half")
    assert train(whole) == made["right"]
    assert not list(whole.rglob(f"{TEMPORARY}*"))


def test_left_over_files_of_processes_that_are_gone_are_removed(tmp_path: Path) -> None:
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    kept = [f"{TEMPORARY}{os.getppid()}-page.html", f"{TEMPORARY}x-page.html", f"{TEMPORARY}1-other.html"]
    for name in [f"{TEMPORARY}{int(gone.stdout)}-page.html", *kept]:
        (tmp_path / name).write_text("half")
    write_text(tmp_path / "page.html", "whole")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*kept, "page.html"])


def test_no_device_is_replaced_by_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "found a device or a pipe" in refusal(lambda: write_text(tmp_path / "pipe", "page"))
    assert (tmp_path / "pipe").is_fifo()


# ---------------------------------------------------------------- what is finished


def test_other_weights_in_the_place_of_the_final_ones_are_seen(whole: Path, made: dict[str, Any]) -> None:
    tensors, meta = load_weights(whole / "line.safetensors")
    save_weights(whole / "line.safetensors", {name: tensor + 1 for name, tensor in tensors.items()}, meta)
    said = refusal(lambda: train(whole))
    assert f"{whole}/line.safetensors: missing, or not the final weights of this run; remove" in said
    (whole / "line.safetensors").unlink()
    assert "line.safetensors: missing" in refusal(lambda: train(whole))
    (whole / "summary.json").unlink()
    assert train(whole) == made["right"]


def test_damaged_final_weights_say_how_to_get_them_again(whole: Path) -> None:
    _flip(whole / "line.safetensors", 3)
    assert f"or remove {whole}/summary.json and run the same command again" in refusal(lambda: train(whole))


@pytest.mark.parametrize("content", [b"", b"null", b"[]", b'{"a": ', b"\xff", b"[" * 100_000, bytes(100)])
def test_a_summary_of_another_shape_is_one_line(whole: Path, content: bytes) -> None:
    (whole / "summary.json").write_bytes(content)
    assert "summary.json" in refusal(lambda: train(whole))


def test_a_changed_number_in_a_summary_is_seen(whole: Path) -> None:
    file = whole / "summary.json"
    file.write_text(file.read_text().replace('"photographs": 3', '"photographs": 2'))
    assert "summary.json: damaged: the content does not match its sha256" in refusal(lambda: train(whole))


def test_a_finished_run_is_read_where_nothing_can_be_written(
    whole: Path, made: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(whole))

    monkeypatch.setattr(FileLock, "acquire", refused)
    monkeypatch.setattr(run_module, "write_text", refused)
    before = sorted(whole.rglob("*"))
    assert train(whole) == made["right"]
    with Run(whole, CONFIG) as run:
        assert run.summary is not None
        assert run.summary["photographs"] == 3
        run.finish(run.summary)
    assert sorted(whole.rglob("*")) == before
    line = refusal(lambda: Run(whole, CONFIG | {"seed": 1}))
    assert f"field 'seed': {whole} was started with {CONFIG['seed']}; this command has 1. To resume it, rerun" in line
    (whole / "summary.json").unlink()
    assert "cannot be used (Read-only file system)" in refusal(lambda: Run(whole, CONFIG))


# ---------------------------------------------------------------- the report


def test_the_report_of_an_undamaged_run(seen: Path) -> None:
    page = markdown(collect(seen))
    assert "| open | 25 % [5, 70] (1/4) | 75 % [30, 95] (3/4) |" in page
    assert "from 3 photographs" in page
    assert "| step 5 | 50 % " in page
    assert "unknown (0/0)" in page


def test_a_comparison_that_was_interrupted_says_so(seen: Path) -> None:
    unfinished = "only 'before' has been evaluated"
    assert unfinished not in markdown(collect(seen))
    (seen / "evaluation.json").write_text(json.dumps({"before": [outcome(0, True), outcome(1, False)]}))
    assert unfinished not in markdown(collect(seen)), "the run has finished"
    (seen / "summary.json").unlink()
    page = markdown(collect(seen))
    assert unfinished in page
    assert "at step 5." in page, "what changed is measured on the starts of the training"


SHAPES = (b"", b"null", b"[]", b"{}", b"3", b'"x"', b'{"a": 1}', b'{"before": [3]}', b"[[]]", b"\xff", b"[" * 100_000,
          b'{"before": [{"task": null}], "after": []}', b'[{"name": "../../x"}]', bytes(64), b'{"step": 1')  # fmt: skip
FILES = ("metrics.jsonl", "evaluation.json", "gate.json", "stages.json", "gallery.json", "summary.json", "config.json",
         "versions.json", "command.txt", "ledger.sqlite")  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_report_on_files_of_other_shapes(name: str, seen: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for content in SHAPES:
        (seen / name).write_bytes(content)
        with contextlib.suppress(InputError):
            markdown(collect(seen))
    (seen / name).unlink()
    with contextlib.suppress(InputError):
        markdown(collect(seen))
    (seen / name).symlink_to(seen / name)
    with contextlib.suppress(InputError):
        markdown(collect(seen))
    capsys.readouterr()


def test_outcomes_that_are_none_are_named(seen: Path) -> None:
    file = seen / "evaluation.json"
    for rows, said in (
        ([{"task": "open"}], "row 1"),
        ([outcome(0, True), outcome(1, "yes")], "row 2"),  # type: ignore[arg-type]
        ([outcome(-1, True)], "row 1"),
        ([outcome(0, True), outcome(0, True)], "some occur twice"),
        (3, "found 3, expected a list of rows"),
    ):
        file.write_text(json.dumps({"before": rows, "after": [outcome(0, True), outcome(1, False)]}))
        assert said in refusal(lambda: collect(seen))


def test_odd_names_are_drawn_as_text() -> None:
    names = [r"$\frac{$", "<script>alert(1)</script>", "x" * 3000, "\N{ROBOT FACE} \u00f6ffne", "a\nb\0c", "../../etc"]
    names += ["a|b", "\ud800", "${\\alpha", "\u202e\u05e1\u05d2\u05d5\u05e8"]
    rows = [EpisodeResult(name, layout, 0, layout < 2, 1) for name in names for layout in range(3)]
    curve = Curve(r'"$\frac{$ \1 <b>', [Series("a", [0, 1], [0.1, 0.2])], x=r"$\frac{$")
    report = Report("<i>$\\frac{$</i>", "worldgymnast", table=success_table(rows, rows), curves=[curve])
    page = render(report)
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert r"$\frac{$" in page
    assert "<b>" not in page
    written = markdown(report)
    assert "| &lt;script>alert(1)&lt;/script> |" in written
    assert r"| a\|b |" in written
    assert "| a b\0c |" in written


def test_a_report_can_be_written_elsewhere(seen: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(seen), "--out", str(tmp_path / "pages" / "page.html")]) == 0
    assert "Command and versions" in (tmp_path / "pages" / "page.html").read_text()
    assert not (seen / "report.html").exists()
    assert main(["report", str(seen), "--out", str(tmp_path)]) == 2
    assert "is a folder. Give a file name" in capsys.readouterr().err


# ---------------------------------------------------------------- numbers and streams

FLAGS = {
    "--threads=100000": "--threads: found 100000, expected 0 to",
    "--threads=-1": "--threads: found -1",
    "--fit.seed=99999999999999999999999": "--fit.seed: found a number beyond 64 bits",
    "--fit.seed=4294967296": "--fit.seed: found 4294967296, expected 0 to 4294967295",
    "--fit.lr=nan": "--fit.lr: found nan",
    "--fit.weight-decay=inf": "--fit.weight-decay: found inf, expected a finite number, 0 or more",
    "--fit.steps=-3": "--fit.steps: found -3",
    "--policy.blocks=10000000": "--policy.blocks: found 10000000, expected 1 to 1024",
    "--out=a\0b": "--out: found a null byte",
    f"--out={'x' * 300}": "--out: found a name longer than 255 bytes",
}


@pytest.mark.parametrize("flag", FLAGS, ids=lambda flag: flag[:20])
def test_numbers_and_paths_that_nothing_could_use(
    flag: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["sft", str(tmp_path), flag] + ["--out", str(tmp_path / "out")] * (not flag.startswith("--out"))
    assert main(words) == 2
    said = capsys.readouterr().err
    assert f"worldgymnast: error: {FLAGS[flag]}" in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_largest_seed_works() -> None:
    seed = FitConfig(seed=LARGEST_SEED).seed
    torch.Generator().manual_seed((seed * 1_000_003 + 10**6) * 1_000)


def test_a_launcher_s_variables_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "0")
    for size in ("x", "", "-1", "99999999999"):
        monkeypatch.setenv("WORLD_SIZE", size)
        assert "WORLD_SIZE: found" in refusal(processes.launched_processes)


def cli(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A shell line with the command line as $W."""
    env = {**os.environ, "W": f"{sys.executable} -m worldgymnast", **environment}
    return subprocess.run(["bash", "-c", command], env=env, capture_output=True, text=True, timeout=120)


def test_nobody_reads_the_output() -> None:
    done = cli("$W --help | true; a=${PIPESTATUS[0]}; $W --help >&-; b=$?; $W --help >/dev/full; echo $a $b $?")
    assert done.stdout == "0 0 2\n"
    assert (
        done.stderr == "worldgymnast: error: standard output: no space left. Free some space or redirect the output\n"
    )


def test_a_terminal_of_another_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    streams.prepare()
    print("\u00f6ffne \ud800", flush=True)
    assert written.getvalue() == b"?ffne ?\n"
    monkeypatch.setattr(sys, "stdout", None)
    streams.prepare()
    print("nobody reads this", flush=True)
    assert sys.stdout.name == os.devnull


def test_help_is_never_narrower_than_40_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    for columns, shown in (("1", "40"), ("39", "40"), ("40", "40"), ("200", "200")):
        monkeypatch.setenv("COLUMNS", columns)
        streams.prepare()
        assert os.environ["COLUMNS"] == shown


# ---------------------------------------------------------------- any damage


def test_any_damage_of_any_file_gives_the_right_weights_or_one_line(
    made: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """For minutes by hand: raise the number."""
    rng = random.Random(3)
    for number in range(60):
        source = made[("half", "whole", "run")[number % 3]]
        folder = Path(shutil.copytree(source, tmp_path / str(number)))
        file = rng.choice([path for path in folder.rglob("*") if path.is_file()])
        file.write_bytes(_damaged(file.read_bytes(), rng))
        with contextlib.suppress(InputError):  # any other exception, and other weights, fail the test
            if source is made["run"]:
                markdown(collect(folder))
            else:
                assert train(folder) == made["right"], file
        shutil.rmtree(folder)
    assert "Traceback" not in capsys.readouterr().err


def _damaged(content: bytes, rng: random.Random) -> bytes:
    """Some bits flipped, some bytes cut out or put in."""
    damaged = bytearray(content)
    for _ in range(rng.choice([1, 1, 3])):
        place = rng.randrange(len(damaged) + 1)
        kind = rng.randrange(4)
        if kind == 0 and damaged:
            damaged[min(place, len(damaged) - 1)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del damaged[place:]
        elif kind == 2:
            damaged[place:place] = rng.choice([b"\n", b"\0" * 8, b"null", b'{"step": NaN}\n', b"[[[[", b"1e999"])
        else:
            del damaged[place : place + rng.randrange(1, 20)]
    return bytes(damaged)
