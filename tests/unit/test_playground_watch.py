"""The page that watches a run: the report's numbers, of runs that are finished, killed or have just begun."""

import json
import math
import shutil

import numpy as np
import pytest
from run_builders import seed_run
from starlette.testclient import TestClient

from worldgymnast.errors import InputError
from worldgymnast.playground.server import watch_app
from worldgymnast.playground.watch import Progress, Watch, plain, progress
from worldgymnast.report.collect import collect
from worldgymnast.video import decode, encode

HOST = "http://127.0.0.1:8000"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = seed_run(tmp_path_factory.mktemp("watch"))
    frames = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    encode(folder / "videos" / "open-right-imagined.mp4", frames, 10)
    return folder


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def killed(run):
    """The run as a kill leaves it after three steps: half a line, and nothing that comes at the end."""
    rows = [
        {"step": s, "time": 100.0 + 10 * s, "reward": 0.1 * s, "zero_advantage_groups": 0.5, "seconds_judge": 2.0}
        for s in range(3)
    ]
    rows[0] |= {"gap": 0.3, "gap_low": 0.1, "gap_high": 0.5, "imagined_success": 0.6, "real_success": 0.3}
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (run / "metrics.jsonl").write_text(text + '{"step": 3, "rew')
    for name in ("summary.json", "evaluation.json", "gate.json", "stages.json", "gallery.json"):
        (run / name).unlink()
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"rl": {"steps": 9, "evaluate_starts": 2}}))
    return run


def test_the_page_has_the_numbers_of_the_report(run):
    state, report = Watch(run).snapshot(), collect(run)
    assert state["curves"][0]["series"][0]["values"] == list(report.curves[0].series[0].values)
    assert state["table"]["difference"]["mean"] == report.table.difference.mean
    assert state["budget"] == dict(report.budget)
    assert state["notes"] == list(report.notes)
    assert (state["gallery"][0]["imagined"], state["gallery"][0]["real"]) == (True, False)
    assert state["trainings"][0]["state"] == "finished"
    json.dumps(state, allow_nan=False)


def test_a_killed_run_shows_how_far_it_came(run):
    one = progress(killed(run))
    assert (one.steps, one.total, one.step_seconds, one.last, one.is_finished) == (3, 9, 10.0, 120.0, False)
    assert one.newest["gap"] == 0.3  # of the newest scoring, not of the newest step
    assert one.newest["reward"] == pytest.approx(0.2)
    assert (one.interval, one.shares) == ((0.1, 0.5), {"judge": 2.0})
    assert [one.state(now) for now in (125.0, 235.0, 245.0)] == ["running", "running", "quiet"]
    state = Watch(run).snapshot()
    assert state["trainings"][0]["left"] == 60
    assert state["gap"][0]["gap"]["low"] == 0.1


def test_workers_show_the_slowest_rates_the_queue_and_restarts(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text(json.dumps({"rl": {"steps": 2}}))
    rows = [
        {"step": step, "time": 100.0 + step, "reward": 0.5, "pool/queued": 3.0, "pool/restarts": 1.0, "staleness": 1.0}
        | {f"pool/rate/{worker}": 1.0 + worker + step for worker in range(6)}
        for step in range(2)
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = Watch(run).snapshot()
    newest = page["trainings"][0]["newest"]
    assert (newest["pool/queued"], newest["pool/restarts"], newest["staleness"]) == (3, 1, 1)
    curve = next(each for each in page["curves"] if "slowest workers" in each["title"])
    assert [line["name"] for line in curve["series"]] == [f"worker {worker}" for worker in range(4)]
    assert curve["series"][0]["values"] == [1, 2]


def test_a_slow_run_is_quiet_only_after_several_of_its_steps():
    one = Progress("rl", 3, 9, 1000.0, 600.0, False, {}, None, {})
    assert [one.state(now) for now in (3000.0, 3500.0)] == ["running", "quiet"]
    assert Progress("rl", 0, 9, None, None, False, {}, None, {}).state(5.0) == "starting"


def test_only_what_changed_is_read_again(run):
    watch = Watch(killed(run))
    first = watch.snapshot()
    again = watch.snapshot(first["version"])
    assert again["version"] == first["version"]
    assert "curves" not in again
    with (run / "metrics.jsonl").open("a") as file:
        file.write('\n{"step": 3, "time": 130.0, "reward": 0.9}\n')
    newer = watch.snapshot(first["version"])
    assert newer["version"] != first["version"]
    assert newer["trainings"][0]["newest"]["reward"] == 0.9


def test_a_training_without_rollouts_shows_its_loss(tmp_path):
    rows = [{"step": 20 * i, "time": 100.0 + 10 * i, "loss": 3.0 - i, "token_accuracy": 0.1 * i} for i in range(3)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "config.json").write_text(json.dumps({"fit": {"steps": 81}}))
    state = Watch(tmp_path).snapshot()
    one = state["trainings"][0]
    assert (one["steps"], one["total"], one["step_seconds"], one["left"]) == (41, 81, 0.5, 20)
    assert one["newest"]["loss"] == 1.0
    titles = {curve["title"]: curve["series"][0]["values"] for curve in state["curves"]}
    assert titles["Loss"] == [3.0, 2.0, 1.0]
    assert state["problem"] == ""


def test_a_folder_without_a_step_says_so_and_is_read_again(tmp_path):
    watch = Watch(tmp_path)
    state = watch.snapshot()
    assert "has no policy rollouts" in state["problem"]
    assert state["trainings"] == []
    (tmp_path / "metrics.jsonl").write_text('{"step": 0, "time": 1.0, "reward": 0.5}\n')
    assert watch.snapshot(state["version"])["problem"] == ""
    with pytest.raises(InputError, match="no such folder"):
        Watch(tmp_path / "none")


def test_a_run_that_is_deleted_meanwhile_is_a_problem_of_the_page(run):
    watch = Watch(run)
    assert watch.snapshot()["problem"] == ""
    shutil.rmtree(run)
    assert watch.snapshot()["problem"]


def test_videos_are_served_and_others_refused(run, tmp_path):
    client = TestClient(watch_app(Watch(run), "secret"), base_url=HOST)
    state = client.get("/secret/state").json()
    assert client.get(f"/secret/state?version={state['version']}").json().keys() == {"version", "trainings", "now"}
    content = client.get("/secret/video/0/imagined").content
    (tmp_path / "a.mp4").write_bytes(content)
    assert decode(tmp_path / "a.mp4").shape == (4, 256, 256, 3)
    for path in ("0/real", "7/imagined", "0/other"):
        assert client.get(f"/secret/video/{path}").status_code == 404
    assert client.get("/secret/").status_code == 200
    assert client.get("/secret/", headers={"Host": "evil.example"}).status_code == 403


def test_watching_changes_nothing_in_the_folder(run):
    before = {file: file.stat().st_mtime_ns for file in run.rglob("*")}
    Watch(run).snapshot()
    assert {file: file.stat().st_mtime_ns for file in run.rglob("*")} == before


def test_numbers_that_json_lacks_become_null():
    assert plain([math.nan, math.inf, np.float32(0.5), True, 3, None]) == [None, None, 0.5, True, 3, None]
