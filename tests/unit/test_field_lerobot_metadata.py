"""LeRobot datasets in the wild: sentences, mixed folders, labels, actions, and invalid fields.

An error of `check` is an error of every reader, and only InputError is ever raised.
"""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from foreign_data import acts, v3, v21
from hypothesis import given, settings
from hypothesis import strategies as st
from test_field_lerobot import KEY, edit, errors, put, straight, warnings
from test_field_lerobot import numbers as frames_and_rows

from worldgymnast.episodes import formats
from worldgymnast.episodes.check import check
from worldgymnast.errors import InputError


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLDGYMNAST_CACHE", str(tmp_path / "cache"))


def lines(root, name, change):
    """Rewrites a JSON lines file by `change` of its list."""
    path = root / "meta" / name
    found = [json.loads(line) for line in path.read_text().split("\n") if line]
    path.write_text("".join(json.dumps(line) + "\n" for line in change(found)))


def info(root, **fields):
    path = root / "meta/info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def listed(root, change):
    for path in root.glob("meta/episodes/*/*.parquet"):
        pq.write_table(change(pq.read_table(path)), path)


def sentences(root):
    return formats.read(root).instruction


THINGS = ("do thing 0", "do thing 1")

# ---------------------------------------------------------------- sentences


@pytest.mark.parametrize(
    "tasks",
    [
        lambda e: f"do thing {e}",
        lambda e: [f" do thing {e}\n"],
        lambda e: e,
        lambda e: [e],
        lambda e: ["do thing 1", "do thing 0"],
        lambda e: [],
        lambda e: [""],
        lambda e: None,
        lambda e: [None],
    ],
)
def test_the_sentence_of_the_rows_counts_however_the_list_is_written(tmp_path, tasks):
    v21(tmp_path / "set")
    lines(
        tmp_path / "set",
        "episodes.jsonl",
        lambda found: [one | {"tasks": tasks(one["episode_index"])} for one in found],
    )
    assert sentences(tmp_path / "set") == THINGS
    assert "instruction" not in warnings(tmp_path / "set")


def test_a_missing_list_is_harmless_if_rows_have_the_task(tmp_path):
    v21(tmp_path / "set")
    keep = ("episode_index", "length")
    lines(tmp_path / "set", "episodes.jsonl", lambda found: [{k: one[k] for k in keep} for one in found])
    assert sentences(tmp_path / "set") == THINGS


@pytest.mark.parametrize(
    "table",
    [
        pa.table({"task_index": [0, 1], "task": list(THINGS)}),
        pa.table({"task": list(THINGS), "task_index": [0, 1]}),
        pa.table({"__index_level_0__": list(THINGS), "task_index": [0, 1]}),
        pa.table({"task_index": [1, 0], "description": [THINGS[1], THINGS[0]]}),
        pa.table({"task": list(THINGS)}).replace_schema_metadata(
            {"pandas": json.dumps({"index_columns": [{"kind": "range", "start": 0, "stop": 2, "step": 1}]})}
        ),
    ],
)
def test_tables_of_tasks_as_pandas_writes_them(tmp_path, table):
    v3(tmp_path / "set")
    pq.write_table(table, tmp_path / "set/meta/tasks.parquet")
    assert sentences(tmp_path / "set") == THINGS


def test_a_rewritten_table_that_the_list_contradicts_is_an_error(tmp_path):
    v21(tmp_path / "old", task_rows=["open the drawer", "close the drawer"])
    line = errors(tmp_path / "old")
    assert 'episode 0: field \'tasks\': found ["do thing 0"], expected "open the drawer" by task_index 0' in line
    v3(tmp_path / "new")
    pq.write_table(pa.table({"task_index": [1, 0], "task": list(THINGS)}), tmp_path / "new/meta/tasks.parquet")
    assert 'expected "do thing 1" by task_index 0 of its rows' in errors(tmp_path / "new")


def test_the_list_counts_where_rows_have_no_task_and_has_to_be_in_the_table(tmp_path):
    root = tmp_path / "set"
    v3(root, rows_fn=lambda table: table.drop_columns(["task_index"]))
    assert sentences(root) == THINGS
    pq.write_table(pa.table({"task_index": [0, 1], "task": ["open", "close"]}), root / "meta/tasks.parquet")
    assert '"do thing 0", which is not in' in errors(root)
    (root / "meta/tasks.parquet").unlink()
    assert sentences(root) == THINGS
    assert "tasks.parquet: tasks: found no such file" in warnings(root)
    listed(root, lambda table: put(table, "tasks", pa.array([["a", "b"], ["a"]])))
    assert "found 2 sentences and no column task_index" in errors(root)


def test_rows_of_several_sentences_are_an_error_that_names_the_row(tmp_path):
    v21(tmp_path / "set")
    edit(tmp_path / "set", lambda table: put(table, "task_index", [0] * 3 + [1] * (len(table) - 3)))
    line = errors(tmp_path / "set")
    assert 'found "do thing 0" up to row 2 and "do thing 1" in row 3, expected one sentence per episode' in line


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        (lambda n: pa.array([9] * n), "row 0: field 'task_index': found 9, expected a number in"),
        (lambda n: pa.array([None] * n, pa.int64()), "field 'task_index': row 0 is empty"),
        (lambda n: pa.array([0.5] * n), "field 'task_index': row 0: found 0.5, expected an integer"),
    ],
)
def test_task_numbers_that_lead_nowhere_are_an_error(tmp_path, numbers, said):
    v21(tmp_path / "set")
    edit(tmp_path / "set", lambda table: put(table, "task_index", numbers(len(table))))
    assert said in errors(tmp_path / "set")


def test_a_table_that_is_missing_or_names_a_number_twice_is_an_error(tmp_path):
    v21(tmp_path / "set")
    lines(tmp_path / "set", "tasks.jsonl", lambda found: [*found, {"task_index": 0, "task": "other"}])
    assert 'task_index 0: found "do thing 0" and "other"' in errors(tmp_path / "set")
    (tmp_path / "set/meta/tasks.jsonl").unlink()
    assert "tasks.jsonl: tasks: found no such file, expected the sentences by number" in errors(tmp_path / "set")


@pytest.mark.parametrize("said", ["", "  ", None, 3, "3", "<task>", "None", "TODO"])
def test_invalid_instructions_are_counted(tmp_path, said):
    text = str(said or "").strip()
    v21(tmp_path / "set", tasks=[text, "open it"], task_rows=[said, "open it"])
    assert formats.read(tmp_path / "set").without_instruction == 1
    assert "1 of 2 episodes have no instruction" in warnings(tmp_path / "set")


# ---------------------------------------------------------------- folders


def test_two_sets_copied_together_are_an_error_everywhere(tmp_path):
    root = tmp_path / "set"
    v3(root)
    v3(tmp_path / "other", tasks=["other 0", "other 1"])
    for part in ("meta/episodes", "data", f"videos/{KEY}"):
        name = next((tmp_path / "other" / part / "chunk-000").iterdir())
        table = name.with_stem("file-001").name
        shutil.copy(name, root / part / "chunk-000" / table)
    listed(root, lambda table: table)
    second = root / "meta/episodes/chunk-000/file-001.parquet"
    places = [name for name in pq.read_schema(second).names if name.endswith("file_index")]
    table = pq.read_table(second)
    for name in places:
        table = put(table, name, [1, 1])
    pq.write_table(table, second)
    line = errors(root)
    assert "file-001.parquet: episode_index: found 0, 1 listed twice" in line
    assert "move each dataset into a separate folder" in line


def test_metadata_of_another_version_are_another_set_or_an_old_copy(tmp_path):
    v21(tmp_path / "same")
    shutil.rmtree(tmp_path / "same/data")
    v3(tmp_path / "same")
    assert "an older list of the same episodes" in warnings(tmp_path / "same")
    v21(tmp_path / "other", lens=(4, 4, 4))
    v3(tmp_path / "other")
    assert "episodes.jsonl: found the list of another dataset" in errors(tmp_path / "other")
    v3(tmp_path / "third")
    v21(tmp_path / "third")
    assert "file-000.parquet: found the list of another dataset" in errors(tmp_path / "third")


def test_removed_episodes_are_a_warning_and_added_ones_an_error(tmp_path):
    root = tmp_path / "set"
    v21(root, lens=(5, 6, 7))
    lines(root, "episodes.jsonl", lambda found: [found[0], found[2]])
    assert frames_and_rows(root) == straight(5, 7)
    said = warnings(root)
    for part in ("no episode 1", "total_episodes: found 3, expected 2", "listed episode: found 1 (data/chunk-000/"):
        assert part in said
    info(root, total_episodes=1)
    assert "total_episodes: found 1, expected 2 by the list of episodes" in errors(root)


def test_duplicated_and_missing_rows(tmp_path):
    v3(tmp_path / "twice", rows_fn=lambda table: pa.concat_tables([table, table]))
    assert "episode 0: found 10 rows, expected 5" in errors(tmp_path / "twice")
    v3(tmp_path / "none", rows_fn=lambda table: table.slice(0, 0))
    assert "episode 0: found 0 rows, expected 5" in errors(tmp_path / "none")


def test_line_separators_byte_order_marks_and_carriage_returns(tmp_path):
    said = ["open\u2028the drawer", "put\u0085it"]
    v21(tmp_path / "set", tasks=said)
    for path in (tmp_path / "set/meta").glob("*"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert sentences(tmp_path / "set") == tuple(said)


def test_actions_by_the_name_that_openpi_gives_them(tmp_path):
    root = tmp_path / "set"
    renamed = lambda table: table.rename_columns(  # noqa: E731
        [name.replace("action", "actions") for name in table.column_names]
    )
    v3(root, rows_fn=renamed)
    assert frames_and_rows(root) == straight(5, 7)  # in the rows only
    for name in ("info.json", "stats.json"):
        path = root / "meta" / name
        path.write_text(path.read_text().replace('"action"', '"actions"'))
    assert frames_and_rows(root) == straight(5, 7)
    path = root / "meta/info.json"
    path.write_text(path.read_text().replace('"actions"', '"action.joint"'))
    assert "rename action.joint to action, here, in meta/stats.json and in the data files" in errors(root)


def test_an_episode_of_one_frame_is_read_with_a_warning(tmp_path):
    v3(tmp_path / "set", lens=(1, 5))
    found = formats.read(tmp_path / "set")
    assert found.length.tolist() == [0, 4]
    assert found.episode(0).actions.shape == (0, 7)
    assert "one frame and no action in 1 episodes (0)" in warnings(tmp_path / "set")


# ---------------------------------------------------------------- fields


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([{"a": 1.0}] * 5, "found struct<a: double> per row, expected a list of numbers"),
        (["x"] * 5, "found string per row, expected a list of numbers"),
        ([["x"] * 7] * 5, "found string per row, expected numbers"),
        ([[[0.0] * 7]] * 5, "row 0: found 1 numbers per row, expected 7"),
        ([[0.0] * 6, [0.0] * 8] + [[0.0] * 7] * 3, "row 0: found 6 numbers per row, expected 7"),
        ([None] + [[0.0] * 7] * 4, "row 0: found 0 numbers per row, expected 7"),
        ([[None] + [0.0] * 6] + [[0.0] * 7] * 4, "found NaN or infinity"),
        ([[1e300] * 7] + [[0.0] * 7] * 4, "found NaN or infinity"),
        ([[True] * 7] * 5, "found bool per row, expected numbers"),
    ],
)
def test_actions_that_are_not_rows_of_numbers(tmp_path, values, said):
    v3(tmp_path / "set", lens=(5,), rows_fn=lambda table: put(table, "action", pa.array(values)))
    assert said in errors(tmp_path / "set")


def test_a_missing_action_in_the_last_row_is_harmless(tmp_path):
    values = acts(0, 5)
    values[-1] = np.nan
    v3(tmp_path / "set", lens=(5,), rows_fn=lambda table: put(table, "action", pa.array(values.tolist())))
    assert frames_and_rows(tmp_path / "set") == straight(5)


@pytest.mark.parametrize("name", ["success", "next.success"])
@pytest.mark.parametrize(
    ("values", "said"),
    [
        (["no", "yes"], '"no"'),
        ([2, 1], "2"),
        ([True, None], "null"),
        ([0.5, 1.0], "0.5"),
        ([float("nan"), 1.0], "nan"),
        ([-1, 1], "-1"),
        ([{"a": 1}] * 2, '{"a": 1}'),
        ([[True, False]] * 2, "[true, false]"),
    ],
)
def test_invalid_labels_are_refused(tmp_path, name, values, said):
    v3(tmp_path / "set", lens=(2,), extra=lambda e, n: {name: pa.array(values)})
    assert f"field '{name}': found {said}, expected true or false per frame" in errors(tmp_path / "set")


@pytest.mark.parametrize("values", [[False, True], [0, 1], [0.0, 1.0], [[False], [True]]])
def test_labels_however_they_are_stored(tmp_path, values):
    v3(tmp_path / "set", lens=(2,), extra=lambda e, n: {"success": pa.array(values)})
    assert formats.read(tmp_path / "set").episode(0).success.tolist() == [False, True]


@pytest.mark.parametrize(
    ("column", "value"),
    [("layout", "x"), ("layout", 1.5), ("labelled", "no"), ("labelled", 1), ("task", 3), ("source", 3)],
)
def test_invalid_own_columns(tmp_path, column, value):
    v3(tmp_path / "set", ep_extra=lambda e: {f"worldgymnast/{column}": value})
    assert f"field 'worldgymnast/{column}': found {json.dumps(value)}, expected" in errors(tmp_path / "set")


LENGTHS = [2**62, 2**40, "5", True, 0, -3, 5.5, None, 10**400, [5]]


@pytest.mark.parametrize("length", LENGTHS)
def test_invalid_lengths_cost_no_memory(tmp_path, length):
    v21(tmp_path / "set", lens=(5,))
    lines(tmp_path / "set", "episodes.jsonl", lambda found: [one | {"length": length} for one in found])
    info(tmp_path / "set", total_frames=10**20)
    line = errors(tmp_path / "set")
    assert "field 'length': found" in line or "found 5 rows, expected 1099511627776" in line


@pytest.mark.parametrize(
    "path",
    [
        "data/{episode_index:0999999999d}.parquet",
        "data/{x:0999999999d}.parquet",
        "../../{episode_index}.parquet",
        "/etc/passwd",
        "{episode_index.__class__}",
        "{episode_index!r:>9}",
        "{episode_index:{episode_index}}",
        "{",
        "a\0b",
        "",
        3,
        None,
        ["x"],
    ],
)
@pytest.mark.parametrize("name", ["data_path", "video_path"])
def test_path_templates_stay_in_the_folder(tmp_path, name, path):
    v21(tmp_path / "set", lens=(2,))
    info(tmp_path / "set", **{name: path})
    assert f"field '{name}': found" in errors(tmp_path / "set")


DEEP = "[" * 900 + "]" * 900


@pytest.mark.parametrize("name", ["tasks.jsonl", "episodes.jsonl", "episodes_stats.jsonl", "info.json"])
@pytest.mark.parametrize(
    "text", [DEEP, DEEP * 100, '{"task_index": 0, "task": ' + DEEP + "}", "9" * 5000, "\xff", "nan"]
)
def test_invalid_json(tmp_path, name, text):
    v21(tmp_path / "set", lens=(2,))
    (tmp_path / "set/meta" / name).write_bytes(text.encode("latin-1"))
    if name == "episodes_stats.jsonl" and "task_index" in text:
        return  # no statistics: they are taken from the rows
    with pytest.raises(InputError):
        formats.read(tmp_path / "set")


@pytest.mark.parametrize("part", ["data/chunk-000/file-000.parquet", "meta/tasks.parquet", "meta/episodes"])
def test_folders_and_garbage_instead_of_files(tmp_path, part):
    v3(tmp_path / "set")
    path = tmp_path / "set" / part
    if path.is_dir():
        path = next(path.rglob("*.parquet"))
    path.write_bytes(b"PAR1" + bytes(100) + b"PAR1")
    assert "cannot be read as parquet" in errors(tmp_path / "set")
    path.unlink()
    path.mkdir()
    assert "no such file" in errors(tmp_path / "set")


def test_a_small_file_with_a_large_column_is_refused_before_reading(tmp_path, monkeypatch):
    monkeypatch.setattr("worldgymnast.episodes.parquet.MAX_VALUES", 50)
    v3(tmp_path / "set")
    assert "field 'action.list.element': found 84 values, expected at most 50" in errors(tmp_path / "set")


# ---------------------------------------------------------------- mutations


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A v2.1 data set whose metadata are mutated."""
    root = tmp_path_factory.mktemp("sound") / "set"
    v21(root, lens=(3, 2))
    return root


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def leaves(value, path=()):
    """Every place in a JSON value."""
    yield path
    for key, inner in value.items() if isinstance(value, dict) else ():
        yield from leaves(inner, (*path, key))


@settings(max_examples=15)
@given(data=st.data())
def test_mutated_metadata_end_in_data_or_one_line(sound, data):
    name = data.draw(st.sampled_from(["info.json", "episodes.jsonl", "tasks.jsonl", "episodes_stats.jsonl"]))
    path = sound / "meta" / name
    kept = path.read_text()
    first, *rest = kept.split("\n") if name.endswith("l") else [kept]
    value = json.loads(first)
    place = data.draw(st.sampled_from(sorted(leaves(value), key=repr)))
    new = data.draw(VALUES)
    inner = value
    for key in place[:-1]:
        inner = inner[key]
    if place:
        inner[place[-1]] = new
    try:
        path.write_text("\n".join([json.dumps(value if place else new), *rest]))
        _agree(sound)
    finally:
        path.write_text(kept)


def _agree(root):
    """Reads and checks: both are refused or neither."""
    try:
        formats.read(root)
        refused = False
    except InputError:
        refused = True
    try:
        found = check(root)
    except InputError:
        assert refused
        return
    assert any(one.severity == "error" for one in found) == refused
