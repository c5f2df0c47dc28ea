"""Judges' files and configs are validated strictly, with one-line errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from worldgymnast.errors import InputError
from worldgymnast.records import read_metrics
from worldgymnast.registry import from_dict, load_judge
from worldgymnast.report.charts import Curve, Series, draw_curve
from worldgymnast.worldmodel.sampler import WorldModelConfig

ENDPOINT = {"model": "m", "url": "http://127.0.0.1:9/v1"}
NO_OBJECT = ["100", "x", "", "model", 5, True, None, [], [1], [["requests", 5]], ["requests"]]


def described(path: Path, **fields: Any) -> Path:
    path.write_text(json.dumps({"kind": "VLMConfig", "endpoint": ENDPOINT, **fields}))
    return path


def refused(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        load_judge(path)
    assert str(caught.value).isprintable()
    return str(caught.value)


@pytest.mark.parametrize("field", ["budget", "price"])
@pytest.mark.parametrize("value", NO_OBJECT, ids=repr)
def test_a_budget_or_a_price_is_an_object(field: str, value: Any, tmp_path: Path) -> None:
    said = refused(described(tmp_path / "v.json", endpoint=ENDPOINT | {field: value}))
    assert f"field 'endpoint.{field}' of VLMConfig: found {json.dumps(value)}, expected an object" in said


@pytest.mark.parametrize("value", NO_OBJECT, ids=repr)
def test_an_endpoint_is_an_object(value: Any, tmp_path: Path) -> None:
    assert "field 'endpoint' of VLMConfig: found" in refused(described(tmp_path / "v.json", endpoint=value))


@pytest.mark.parametrize("field", ["objective", "autoencoder", "transformer"])
@pytest.mark.parametrize("value", NO_OBJECT, ids=repr)
def test_a_part_of_a_world_is_an_object(field: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"field '{field}' of WorldModelConfig: found"):
        from_dict(WorldModelConfig, {field: value}, "world")


@pytest.mark.parametrize("kind", ["x", "", None, 3, [], {}, "AutoencoderConfig"], ids=repr)
def test_an_objective_of_an_unknown_kind(kind: Any) -> None:
    with pytest.raises(InputError, match="objective"):
        from_dict(WorldModelConfig, {"objective": {"kind": kind}}, "world")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ('{"kind": "VLMConfig", "endpoint": {"model": "m", "budget": {"requests": 5}, "budget": {}}}', "budget"),
        ('{"kind": "VLMConfig", "endpoint": {"model": "m", "budget": {"requests": 5, "requests": 500}}}', "requests"),
        ('{"kind": "VLMConfig", "votes": 1, "endpoint": {"model": "m"}, "votes": 3}', "votes"),
    ],
)
def test_a_duplicate_field_is_refused(text: str, name: str, tmp_path: Path) -> None:
    (tmp_path / "v.json").write_text(text)
    assert f'field "{name}": found twice' in refused(tmp_path / "v.json")


def test_a_field_with_few_choices_lists_them(tmp_path: Path) -> None:
    said = refused(described(tmp_path / "v.json", tie="x"))
    assert """field 'tie' of VLMConfig: found "x", expected "failure" or "success\"""" in said
    (tmp_path / "e.json").write_text('{"kind": "EnsembleConfig", "judges": ["a", "b"], "rule": "median"}')
    said = refused(tmp_path / "e.json")
    assert """field 'rule' of EnsembleConfig: found "median", expected \"""" in said
    assert "typing" not in said


def test_control_characters_are_escaped(tmp_path: Path) -> None:
    for name, text in {
        "kind": '{"kind": "\\u001b[31m\\n"}',
        "field": json.dumps({"kind": "VLMConfig", "endpoint": ENDPOINT, "\x1b[2J\r\n\x07\u202e": 1}),
        "budget": json.dumps({"kind": "VLMConfig", "endpoint": ENDPOINT | {"budget": "\x1b[2J"}}),
        "rubric": json.dumps({"kind": "VLMConfig", "endpoint": ENDPOINT, "rubric": "\x9b31m\n"}),
    }.items():
        (tmp_path / f"{name}.json").write_text(text)
        refused(tmp_path / f"{name}.json")


@pytest.mark.parametrize(
    "field", [{"frames": 10**9}, {"votes": 10**9, "temperature": 1.0}, {"max_tokens": 10**9}], ids=str
)
def test_a_count_has_an_upper_bound(field: dict[str, Any], tmp_path: Path) -> None:
    assert "found 1000000000, expected" in refused(described(tmp_path / "v.json", **field))


def test_numbers_that_no_axis_holds_are_not_drawn() -> None:
    series = Series("psnr", [0.0, 1.0, 2.0], [1e308, 5.0, -1e308], [-1e308, 4.0, 0.0], [1e308, 6.0, 1e308])
    assert draw_curve(Curve("Fidelity", [series], percent=False)).light.rstrip().endswith("</svg>")


def test_a_skipped_line_is_reported_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\nnothing\n')
    for _ in range(3):
        assert len(read_metrics(tmp_path / "metrics.jsonl")) == 1
    assert capsys.readouterr().err.count("line 2 skipped") == 1
