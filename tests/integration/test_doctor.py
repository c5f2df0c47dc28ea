"""The doctor's report; a crash of a checked component is a finding."""

from pathlib import Path

import pytest
import torch

from worldgymnast import doctor
from worldgymnast.doctor import Check, diagnose, exit_code, report

GOOD = Check("torch", True, "2.13.0", "everything")
BAD = Check("disk", False, "0.1 GB free here", "runs", "free some")
ABSENT = Check("ray", False, "not installed", "optional: many machines", "install it", is_required=False)


def test_only_what_the_main_job_needs_decides() -> None:
    assert exit_code([GOOD, ABSENT]) == 0
    assert exit_code([GOOD, BAD]) == 1


def test_the_report_says_what_to_do() -> None:
    text = report([GOOD, BAD, ABSENT])
    assert "MISSING  disk" in text
    assert "To do:\n  disk: free some\n\nOptional:\n  ray: install it" in text
    assert text.endswith("missing: disk.")
    assert report([GOOD, ABSENT]).endswith("worldgymnast quickstart can run here.")
    assert "To do" not in report([GOOD, ABSENT])


def test_a_crash_while_rendering_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_RENDER", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    frame = next(check for check in diagnose() if check.name == "Meta-World frame")
    assert not frame.is_ok
    assert "killed by signal 11" in frame.result
    assert "libegl1" in frame.fix


def test_an_error_while_rendering_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_RENDER", "raise SystemExit('no display')")
    frame = next(check for check in diagnose() if check.name == "Meta-World frame")
    assert not frame.is_ok
    assert "no display" in frame.result


def test_published_policies_are_compared_with_the_memory_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {}
    for memory in (8, 17, 80):
        monkeypatch.setattr(doctor, "machine_bytes", lambda memory=memory: memory * 10**9)
        monkeypatch.setattr(torch.cuda, "is_available", bool)
        found[memory] = {check.name: check for check in doctor._vlas()}
    assert [check.name for check in found[8].values() if check.is_ok] == ["SmolVLA"]
    assert "rollouts do not (15.9 GB)" in found[8]["OpenVLA-OFT 7B"].result
    assert "rollouts fit (15.9 GB), LoRA RL does not (19.6 GB and a world model)" in found[17]["OpenVLA-OFT 7B"].result
    assert all(check.is_ok for check in found[80].values())
    assert not any(check.is_required for check in found[8].values())


def test_the_gated_tokenizer_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    check = doctor._tokenizers()
    assert not check.is_ok
    assert "accept the license at https://huggingface.co/google/paligemma-3b-pt-224" in check.fix
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    assert doctor._tokenizers().is_ok
    monkeypatch.delenv("HF_TOKEN")
    snapshot = tmp_path / "hub/models--google--paligemma-3b-pt-224/snapshots/abc"
    snapshot.mkdir(parents=True)
    (snapshot / "tokenizer.json").write_text("{}")
    assert doctor._tokenizers().result == "in the hub's cache"
    assert f"{tmp_path}/hub: 1 models" in doctor._hub_cache().result
