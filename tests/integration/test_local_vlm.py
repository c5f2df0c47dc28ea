"""The judge in this process: tiny real models in the published classes, with and without company, by hand, broken."""

from __future__ import annotations

import json
import math
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_vlm
import torch

from worldgymnast.errors import InputError
from worldgymnast.judges.local import LocalVLM, LocalVLMConfig, answer_of
from worldgymnast.protocols import Judge
from worldgymnast.types import Clip

MODELS = (tiny_vlm.qwen2_5_vl, tiny_vlm.qwen3_vl, tiny_vlm.smolvlm)
QWEN = "qwen2_5_vl"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {build.__name__: build(tmp_path_factory.mktemp("models") / build.__name__) for build in MODELS}


def clip(length: int, seed: int = 0, task: str = "drawer") -> Clip:
    frames = np.random.default_rng(seed).integers(0, 255, (length, 40, 48, 3), dtype=np.uint8)
    return Clip(frames, "open the drawer", task)


def judge(folder: Path, **fields: Any) -> LocalVLM:
    settings: dict[str, Any] = {"pixels": 40} | fields
    return LocalVLM(LocalVLMConfig(str(folder), **settings))


@pytest.mark.parametrize("name", [build.__name__ for build in MODELS])
def test_probability_of_each_clip_alone_and_in_company_without_a_network(
    folders: dict[str, Path], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a local folder needs no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    made = judge(folders[name], batch=4)
    assert isinstance(made, Judge)
    assert made.name == f"{name}, binary-v1"
    clips = [clip(3), clip(12, 1), clip(5, 2), clip(3, 3), clip(3, 4)]
    together = [v.probability for v in made.score(clips)]
    alone = [v.probability for (v,) in (made.score([c]) for c in clips)]
    assert together == pytest.approx(alone, abs=1e-5)
    assert all(p is not None and 0 <= p <= 1 for p in together)
    same_words = np.array([together[0], *together[3:]], float)
    assert np.abs(np.diff(same_words)).min() > 1e-3, "the pictures reach the model"
    assert made.score([]) == []


def test_all_frames_on_one_sheet(folders: dict[str, Path]) -> None:
    made = judge(folders[QWEN], sheet=True)
    assert len(made.inputs([clip(6)])["image_grid_thw"]) == 1
    assert made.score([clip(6)])[0].probability != made.score([clip(6, 1)])[0].probability


@pytest.mark.parametrize("name", [build.__name__ for build in MODELS])
def test_the_probability_is_that_of_the_models_logits(folders: dict[str, Path], name: str) -> None:
    """Every score is written out and fed whole; 0 begins 0.5, so it gives up that share."""
    made = judge(folders[name], rubric="partial-v1", criteria={"drawer": "it moves"})
    inputs = made.inputs([clip(4)])
    share = {}
    for written in ("0", "0.5", "1"):
        tokens = made.processor.tokenizer(f"Final Score: {written}", return_tensors="pt")["input_ids"]
        own = len(made.processor.tokenizer(written)["input_ids"])
        more = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
        more |= {"mm_token_type_ids": torch.zeros_like(tokens)} if "mm_token_type_ids" in inputs else {}
        longer = {k: torch.cat([v, more[k]], 1) if k in more else v for k, v in inputs.items()}
        with torch.no_grad():
            logits = made.model(**longer).logits[0]
        steps = logits[-own - 1 : -1].log_softmax(-1).gather(1, tokens[0, -own:, None])
        share[written] = float(steps.sum().exp())
    share["0"] -= share["0.5"]
    (verdict,) = made.score([clip(4)])
    assert verdict.probability == pytest.approx(share["1"] / sum(share.values()), abs=1e-5)


def test_a_score_that_begins_another_gives_up_its_share() -> None:
    found = answer_of({0.0: math.log(0.5), 0.5: math.log(0.2), 1.0: math.log(0.5)}, {0.0: (4,), 0.5: (4, 1), 1.0: (5,)})
    assert found is not None
    assert [found[s] for s in (0.0, 0.5, 1.0)] == pytest.approx([0.3, 0.2, 0.5])
    assert answer_of({0.0: math.nan, 1.0: 0.0}, {0.0: (4,), 1.0: (5,)}) is None


@pytest.mark.parametrize("fields", [{}, {"scoring": "generate", "max_tokens": 16}])
def test_a_model_that_knows_tells_success_from_failure(taught_vlm: Path, fields: dict[str, Any]) -> None:
    """Only the last picture counts, so their order must arrive too."""
    shown = [(0, 1), (1, 0), (1, 1, 0), (0, 0, 1), (1, 1, 1, 1, 1, 0), (0, 0, 0, 0, 0, 1)]
    clips = [tiny_vlm.clip(bright, 900 + i) for i, bright in enumerate(shown)]
    verdicts = judge(taught_vlm, pixels=28, **fields).score(clips)
    assert [v.succeeded for v in verdicts] == [bool(bright[-1]) for bright in shown]
    assert [v.probability for v in verdicts] == pytest.approx([float(bright[-1]) for bright in shown], abs=0.1)


def test_sampled_votes_are_those_of_the_clip_alone(taught_vlm: Path) -> None:
    made = judge(taught_vlm, pixels=28, scoring="generate", temperature=1.8, votes=8, max_tokens=16)
    clips = [tiny_vlm.clip((0, 1), seed) for seed in range(4)]
    stream = torch.get_rng_state()
    verdicts = made.score(clips)
    assert torch.equal(stream, torch.get_rng_state()), "the process's own random numbers go on untouched"
    assert verdicts[::-1] == made.score(clips[::-1])
    assert len(set(verdicts)) > 1, "so warm that votes differ"


def test_words_that_say_nothing_are_no_verdict(folders: dict[str, Path]) -> None:
    made = judge(folders[QWEN], scoring="generate", max_tokens=12)
    for verdict in made.score([clip(3), clip(5)]):
        assert verdict.score is None
        assert verdict.error is not None
        assert "no score in the answer" in verdict.error


def test_identity_follows_what_determines_the_verdicts(folders: dict[str, Path], tmp_path: Path) -> None:
    one = judge(folders[QWEN])
    assert one.identity == judge(folders[QWEN], batch=1).identity
    assert one.identity != judge(folders[QWEN], frames=4).identity
    copy = shutil.copytree(folders[QWEN], tmp_path / "copy")
    before = judge(copy).identity
    weights = copy / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert before != judge(copy).identity


def test_a_criterion_is_missing(folders: dict[str, Path]) -> None:
    made = judge(folders[QWEN], rubric="partial-v1", criteria={"drawer": "it moves"})
    made.check([("drawer", "open the drawer")])
    with pytest.raises(InputError, match="'door'"):
        made.check([("drawer", "open the drawer"), ("door", "open the door")])
    with pytest.raises(InputError, match="'door'"):
        made.score([clip(3), clip(3, task="door")])


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"votes": 3}, "votes"),
        ({"votes": 3, "scoring": "generate"}, "votes"),
        ({"temperature": 1.0}, "temperature"),
        ({"frames": 1}, "frames"),
        ({"threshold": 1.5}, "threshold"),
        ({"rubric": "binary"}, "binary-v1"),
    ],
)
def test_wrong_settings(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        LocalVLMConfig("model", **fields)


def _without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def _text_model(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen2"}))


def _lost_tensor(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_without("config.json"), "found no config.json"),
        (_text_model, "found model type 'qwen2'"),
        (_without("tokenizer.json"), "found no tokenizer"),
        (_without("chat_template.jinja"), "found no chat template"),
        (_without("preprocessor_config.json"), "found no image settings"),
        (_without("model.safetensors"), "found no weights"),
        (_lost_tensor, "weights missing: lm_head.weight"),
        (lambda folder: (folder / "config.json").write_text("{"), "cannot be loaded"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 99), "cannot be loaded"),
        (shutil.rmtree, "found no such folder"),
    ],
)
def test_a_folder_that_is_no_whole_model(
    folders: dict[str, Path], tmp_path: Path, damage: Callable[[Path], object], said: str
) -> None:
    folder = shutil.copytree(folders[QWEN], tmp_path / "model")
    damage(folder)
    with pytest.raises(InputError) as caught:
        judge(folder)
    message = str(caught.value)
    assert said in message
    assert str(folder) in message
    assert "\n" not in message


def test_a_question_longer_than_the_model_can_take(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(folders[QWEN], tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["max_position_embeddings"] = 200
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="expected at most 200"):
        judge(folder).score([clip(3)])
