"""The logic of the playground: undo, fork, resample, follow, policy, belief, within limits of memory."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_worlds import SMALL, SPEC, randomised
from two_cameras import SPEC as JOINTS

from worldgymnast.actions import BRIDGE, ActionSpecMismatch, foreign_spec
from worldgymnast.errors import InputError
from worldgymnast.playground.controls import clipped, controls
from worldgymnast.playground.scenes import EpisodeScenes, Log, Scene, StartScenes
from worldgymnast.playground.session import MAX_LINES, Session
from worldgymnast.tiling import Tiling
from worldgymnast.types import ActionChunk, Start, Verdict, WorldState


def picture(seed=1):
    return np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)


def start(sentence="open the drawer"):
    return Start(picture(), sentence, "drawer-open")


def logged(length=6):
    rng = np.random.default_rng(5)
    actions = rng.uniform(-1, 1, (length, 4)).astype(np.float32)
    frames = rng.integers(0, 256, (length + 1, 64, 64, 3), dtype=np.uint8)
    frames[0] = picture()
    return Scene("episode", start(), Log(frames, actions))


@pytest.fixture(scope="module")
def world():
    return randomised(replace(SMALL, steps=4))  # one step of this objective ignores the draw


def drive(session, count, name="A", seed=3):
    rng = np.random.default_rng(seed)
    return [session.drive([name], rng.uniform(-1, 1, 4))[0] for _ in range(count)]


def test_undo_returns_the_identical_node_and_redo_takes_it_back(world):
    session = Session(world, Scene("s", start()))
    nodes = drive(session, 5)
    assert session.undo("A") is nodes[3]
    assert session.undo("A", 3) is nodes[0]
    assert session.redo("A", 2) is nodes[2]
    assert session.undo("A", 99) is session.tree.root
    assert np.array_equal(session.tree.root.frame, picture())
    session.drive(["A"], np.zeros(4))
    tip = session.line("A").tip
    assert session.redo("A") is tip  # what was undone is gone after another action


def test_a_continuation_after_undo_is_the_one_of_the_same_state(world):
    session = Session(world, Scene("s", start()))
    nodes = drive(session, 3)
    session.undo("A")
    again = session.tree.extend([nodes[1]], nodes[2].action[None], nodes[2].draw.seed, "hand")[0]
    assert np.array_equal(again.frame, nodes[2].frame)


def test_a_fork_shares_the_past_and_not_the_future(world):
    session = Session(world, Scene("s", start()))
    drive(session, 4)
    line = session.fork("A", 2)
    assert (line.name, line.tip) == ("B", session.line("A").tip.ancestor(2))
    a, b = session.line("A").tip, drive(session, 2, "B", seed=9)[-1]
    assert a.path()[:3] == b.path()[:3]
    assert not np.array_equal(a.frame, b.frame)
    assert session.line("A").tip is a
    assert len(session.clip("B")) == 5


def test_lines_driven_together_differ_by_their_draws_alone(world):
    session = Session(world, Scene("s", start()))
    session.fork("A")
    a, b = session.drive(["A", "B"], [0.5, 0, 0, 1])
    assert np.array_equal(a.action, b.action)
    assert not np.array_equal(a.frame, b.frame)


def test_there_are_at_most_four_lines_and_the_last_one_stays(world):
    session = Session(world, Scene("s", start()))
    for _ in range(MAX_LINES - 1):
        session.fork("A")
    with pytest.raises(InputError, match="4 lines already"):
        session.fork("A")
    for name in "ABCD":
        session.close(name)
    assert list(session.lines) == ["D"]
    with pytest.raises(InputError, match="expected D"):
        session.line("A")


def test_resample_keeps_actions_changes_frames_and_is_one_undo(world):
    session = Session(world, Scene("s", start()))
    before = drive(session, 5)
    fresh = list(session.resample("A", 2))
    assert [n.depth for n in fresh] == [3, 4, 5]
    for old, new in zip(before[2:], fresh, strict=True):
        assert np.array_equal(old.action, new.action)
        assert not np.array_equal(old.frame, new.frame)
    assert session.line("A").tip.ancestor(2) is before[1]
    assert session.undo("A") is before[-1]


def test_a_resample_that_is_stopped_is_one_undo_too(world):
    session = Session(world, Scene("s", start()))
    before = drive(session, 4)
    fresh = session.resample("A")
    next(fresh)
    next(fresh)
    assert session.line("A").tip.depth == 2
    assert session.undo("A") is before[-1]


def test_rewind_continues_from_an_earlier_frame(world):
    session = Session(world, Scene("s", start()))
    nodes = drive(session, 4)
    assert session.rewind("A", 1) is nodes[0]
    new = session.drive(["A"], np.ones(4))[0]
    assert new.parent is nodes[0]
    assert session.undo("A", 2) is nodes[-1]
    assert session.rewind("A", 9) is nodes[-1]


def test_follow_equals_a_replay_of_the_logged_actions(world):
    session = Session(world, logged())
    nodes = []
    while found := session.follow(["A"]):
        nodes += found
    assert len(nodes) == 6
    state = world.start(torch.from_numpy(picture()[None]))
    for node, action in zip(nodes, session.scene.log.actions, strict=True):
        generator = torch.Generator().manual_seed(node.draw.seed)
        state, frame = world.step(state, torch.from_numpy(action[None, None]), generator=generator)
        assert np.array_equal(frame[0, 0].numpy(), node.frame)
    assert session.follow(["A"]) == []
    assert all(node.is_on_log for node in nodes)


def test_the_error_is_known_only_on_the_log(world):
    session = Session(world, logged())
    assert session.error(session.tree.root) == 0
    node = session.follow(["A"])[0]
    difference = (node.frame.astype(float) - session.real_frame(1)) / 255
    assert session.error(node) == pytest.approx(np.sqrt((difference**2).mean()), rel=1e-5)
    off = session.drive(["A"], np.zeros(4))[0]
    assert session.error(off) is None
    same = session.follow(["A"])[0]  # logged actions after another one are no replay
    assert session.error(same) is None
    assert session.real_frame(7) is None


def test_driving_the_logged_actions_by_hand_is_on_the_log(world):
    session = Session(world, logged())
    node = session.drive(["A"], session.logged_action(0))[0]
    assert node.is_on_log


def test_following_without_a_log_is_refused(world):
    with pytest.raises(InputError, match="no recorded actions"):
        Session(world, Scene("s", start())).follow(["A"])


@pytest.mark.parametrize("memory", [0, 200_000])
def test_dropped_states_are_computed_again_bit_for_bit(world, memory):
    whole, small = (Session(world, Scene("s", start()), memory=m, seed=4) for m in (1 << 30, memory))
    for session in (whole, small):
        drive(session, 12)
        session.fork("A", 12)
        for _ in range(3):
            session.drive(["A", "B"], [0.1, 0.2, 0, 1])
    assert small.tree.state_bytes < whole.tree.state_bytes
    for name in "AB":
        for one, other in zip(whole.line(name).tip.path(), small.line(name).tip.path(), strict=True):
            assert np.array_equal(one.frame, other.frame)
            a, b = whole.tree.state(one), small.tree.state(other)
            assert torch.equal(a.latent, b.latent)
            assert all(torch.equal(x, y) for x, y in zip(a.cache, b.cache, strict=True))


def test_a_full_session_is_refused(world, monkeypatch):
    monkeypatch.setattr("worldgymnast.playground.tree.MAX_NODES", 3)
    session = Session(world, Scene("s", start()))
    drive(session, 2)
    with pytest.raises(InputError, match="at most 3 are kept"):
        drive(session, 1)


class Robot:
    """A policy of chunks of three that remembers what it saw."""

    action_spec, chunk, needs, cameras = SPEC, 3, frozenset({"image"}), ("image",)

    def __init__(self, spec=SPEC):
        self.action_spec, self.seen = spec, []

    def act(self, obs, *, temperature, generator):
        self.seen.append((obs, temperature))
        actions = torch.full((1, 3, self.action_spec.dim), 0.25)
        return ActionChunk(actions, actions, torch.zeros(1, 3), temperature)


def test_the_policy_sees_the_newest_frame_the_first_and_the_sentence(world):
    policy = Robot()
    session = Session(world, Scene("s", start()), policy=policy)
    session.instruction, session.temperature = "close the door", 0.5
    drive(session, 2)
    tip = session.line("A").tip
    nodes = list(session.act("A"))
    obs, temperature = policy.seen[0]
    assert np.array_equal(obs.images["image"][0].numpy(), tip.frame)
    assert np.array_equal(obs.first["image"][0].numpy(), picture())
    assert (list(obs.instruction), temperature) == (["close the door"], 0.5)
    assert [n.origin for n in nodes] == ["policy"] * 3
    assert session.line("A").tip is nodes[-1]


def test_a_policy_of_other_actions_is_refused(world):
    with pytest.raises(ActionSpecMismatch):
        Session(world, Scene("s", start()), policy=Robot(JOINTS))
    with pytest.raises(InputError, match="no policy"):
        next(Session(world, Scene("s", start())).act("A"))


class Drawer:
    """A world of seven axes, two cameras and a state: z brightens, the state adds up x and y."""

    identity, fps, frame_size = "drawer", 5.0, (8, 16)
    action_spec, state_dim = BRIDGE, 2
    tiling = Tiling.side_by_side({"front": (8, 8), "wrist": (8, 8)})

    def start(self, frames, state=None):
        given = torch.full((len(frames), 2), torch.nan) if state is None else state
        return WorldState(frames.float(), 0, (), {"robot": torch.nan_to_num(given)})

    def step(self, state, actions, *, generator, every=1):
        del generator
        robot = state.extra["robot"] + actions[:, :, :2].sum(1)
        rise = (1 + (100 * actions[..., 2]).round()).cumsum(1)[..., None, None, None]
        latents = state.latent[:, None] + rise
        frames = latents[:, every - 1 :: every].clamp(0, 255).to(torch.uint8)
        return WorldState(latents[:, -1], state.frame + actions.shape[1], (), {"robot": robot}), frames

    def predict_state(self, state):
        return state.extra["robot"]


def test_seven_axes_two_cameras_and_a_state():
    world = Drawer()
    policy = Robot(BRIDGE)
    policy.needs, policy.cameras = frozenset({"wrist", "state"}), ("wrist",)
    frame = np.zeros((8, 16, 3), np.uint8)
    frame[:, 8:] = 100
    session = Session(world, Scene("s", Start(frame, "x", state=np.array([1, 2], np.float32))), policy=policy)
    action = np.array([0.5, 1, 0, 0, 0, 0, 1], np.float32)
    node = session.drive(["A"], action)[0]
    assert node.frame[0, 0, 0] == 1
    list(session.act("A"))
    obs = policy.seen[0][0]
    assert obs.images["wrist"].shape == (1, 8, 8, 3)
    assert (int(obs.images["wrist"].max()), int(obs.first["wrist"].max())) == (101, 100)
    assert obs.state.tolist() == [[1.5, 3.0]]
    assert len(controls(BRIDGE)) == 7
    assert controls(BRIDGE)[6].is_switch
    assert session.still_action(node).tolist() == [0, 0, 0, 0, 0, 0, 1]  # the gripper stays
    with pytest.raises(InputError, match="state has 3 numbers"):
        session.begin(Scene("s", Start(frame, "x", state=np.zeros(3, np.float32))))


def test_follow_equals_the_replay_of_the_measurements():
    """The frames of `training.replay`, which all measurements of world models use."""
    from worldgymnast.training.replay import imagine_actions

    rng = np.random.default_rng(0)
    actions, frame = rng.uniform(-0.05, 0.05, (5, 7)).astype(np.float32), np.zeros((8, 16, 3), np.uint8)
    log = Log(np.zeros((6, 8, 16, 3), np.uint8), actions)
    session = Session(Drawer(), Scene("s", Start(frame, "x"), log))
    while session.follow(["A"]):
        pass
    expected, _ = imagine_actions(Drawer(), frame[None], actions[None], ["x"], torch.Generator())
    assert np.array_equal(session.clip("A"), expected[0])


class Counting:
    """A judge whose belief is the number of frames that it sees, in hundredths."""

    identity = name = "counting"

    def __init__(self, is_remote=False):
        self.is_remote, self.clips = is_remote, []

    def score(self, clips):
        self.clips += clips
        return [Verdict(float(len(c.frames) > 2), len(c.frames) / 100) for c in clips]


def test_the_judge_sees_every_second_frame_and_the_newest(world):
    judge = Counting()
    session = Session(world, Scene("s", start()), judge=judge, stride=2)
    nodes = drive(session, 5)
    beliefs = [session.belief(node) for node in nodes]
    assert [b.judge for b in beliefs] == [None, 0.02, None, 0.03, None]
    assert [b.succeeded for b in beliefs] == [None, False, None, True, None]
    assert session.belief(nodes[4], is_asked=True).judge == 0.04
    assert np.array_equal(judge.clips[-1].frames[0], picture())
    assert judge.clips[-1].task == "drawer-open"
    session.instruction = "something else"
    assert session.belief(nodes[3]).judge == 0.03
    assert (judge.clips[-1].task, judge.clips[-1].instruction) == ("", "something else")


def test_a_remote_judge_is_asked_on_request_only(world):
    session = Session(world, Scene("s", start()), judge=Counting(is_remote=True))
    nodes = drive(session, 2)
    assert session.belief(nodes[1]).judge is None
    assert session.belief(nodes[1], is_asked=True).judge == 0.02


def test_a_judge_that_refuses_does_not_stop_the_driving(world):
    class Refuses(Counting):
        def score(self, clips):
            raise InputError("unknown task")

    session = Session(world, Scene("s", start()), judge=Refuses())
    belief = session.belief(drive(session, 2)[1])
    assert (belief.judge, belief.succeeded, belief.error) == (None, None, "unknown task")


def test_a_world_without_a_success_head_foresees_nothing(world):
    session = Session(world, Scene("s", start()))
    assert session.belief(drive(session, 1)[0]).foreseen is None


def test_states_of_other_shapes_are_not_joined():
    one = WorldState(torch.zeros(1, 2), 3, (torch.zeros(1, 4),), {"x": torch.zeros(1, 1)})
    both = WorldState.join([one, one])
    assert both is not None
    assert (both.latent.shape, both.cache[0].shape, both.extra["x"].shape) == ((2, 2), (2, 4), (2, 1))
    assert WorldState.join([one, WorldState(torch.zeros(1, 2), 4, one.cache, one.extra)]) is None
    assert WorldState.join([one, WorldState(torch.zeros(1, 2), 3, (torch.zeros(1, 5),), one.extra)]) is None
    assert WorldState.join([one, WorldState(torch.zeros(1, 2), 3, one.cache)]) is None


def test_every_axis_has_controls_of_its_own():
    spec = foreign_spec([f"joint_{i}.pos" for i in range(6)] + ["gripper.pos"], [-90] * 6 + [0], [90] * 6 + [100], 10)
    axes = controls(spec, np.array([1, 2, 3, 4, 5, 6, 50], np.float32))
    assert not any(axis.springs for axis in axes)
    assert [axis.rest for axis in axes] == [1, 2, 3, 4, 5, 6, 50]
    keys = [key for axis in axes for key in axis.keys]
    assert len(keys) == len(set(keys)) == 14


def test_actions_are_clipped_to_the_bounds_or_refused():
    assert clipped(SPEC, [2, -3, 0, 0.5]).tolist() == [1, -1, 0, 0.5]
    for wrong in ([1, 2], [[1, 2, 3, 4]], "x", None, [1, 2, 3, float("nan")], [1, 2, 3, {}]):
        with pytest.raises(ActionSpecMismatch):
            clipped(SPEC, wrong)


def test_scenes_of_another_size_or_number_are_refused():
    with pytest.raises(InputError, match="32x32"):
        StartScenes([Start(np.zeros((32, 32, 3), np.uint8), "x")], (64, 64))
    scenes = StartScenes([start(), start()], (64, 64))
    assert scenes.names == ["open the drawer (1)", "open the drawer (2)"]
    with pytest.raises(InputError, match="expected 0 to 1"):
        scenes[2]


def test_scenes_of_episodes_carry_what_really_happened():
    from two_cameras import episode

    from worldgymnast.episodes.windows import from_episodes

    episodes = from_episodes([episode(0), episode(1)])
    scenes = EpisodeScenes(episodes, [4, 7], JOINTS, episodes.size)
    assert scenes.names[0].startswith("4: move right")
    scene = scenes[1]
    assert np.array_equal(scene.log.frames[0], scene.start.frame)
    assert scene.log.actions.shape == (12, 6)
