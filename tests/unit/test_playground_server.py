"""The playground's server: who is refused, the conversation of a page, downloads, limits."""

import io
import json
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from small_worlds import SMALL, randomised
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect
from test_playground_session import Counting, Robot, logged, start

from worldgymnast.errors import InputError
from worldgymnast.playground.scenes import Scene
from worldgymnast.playground.server import Playground
from worldgymnast.playground.session import Session
from worldgymnast.playground.turns import Turns
from worldgymnast.playground.visits import Visits

HOST = "http://127.0.0.1:8000"


class Two:
    """A logged scene and a photograph."""

    names = ("logged", "photograph")

    def __len__(self):
        return 2

    def __getitem__(self, index):
        if index > 1:
            raise InputError(f"scene: found {index}, expected 0 to 1")
        return [logged(), Scene("photograph", start("close the door"))][index]


@pytest.fixture(scope="module")
def world():
    return randomised(replace(SMALL, steps=4))


@pytest.fixture
def client(world):
    turns = Turns()

    def make(scene, seed):
        return Session(world, scene, policy=Robot(), judge=Counting(), seed=seed, turn=turns)

    visits = Visits(Two(), make, limit=2)
    return TestClient(Playground(visits, {"world": "small"}).app("secret"), base_url=HOST)


class Page:
    """One open page."""

    def __init__(self, socket):
        self.socket, self.nodes, self.frames, self.lines = socket, {}, {}, {}
        self.hello = self.until("hello")
        self.until("lines")

    def until(self, kind):
        """Read messages until one of this kind."""
        while True:
            message = self.socket.receive()
            if message["type"] == "websocket.close":
                raise WebSocketDisconnect(message["code"])
            if message.get("bytes"):
                content = message["bytes"]
                size = int.from_bytes(content[:4], "big")
                found = json.loads(content[4 : 4 + size])
                self.nodes[found["node"]["id"]] = found["node"]
                self.frames[found["node"]["id"]] = np.array(Image.open(io.BytesIO(content[4 + size :])))
            else:
                found = json.loads(message["text"])
            if found["is"] == "nodes":
                self.nodes |= {node["id"]: node for node in found["nodes"]}
            if found["is"] == "lines":
                self.lines = {line["name"]: line for line in found["lines"]}
            if found["is"] == kind:
                return found

    def do(self, command, **more):
        self.socket.send_json({"do": command, **more})
        self.until("lines")
        return self.nodes[self.lines["A"]["tip"]] if "A" in self.lines else None


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/secret/", {}, 200),
        ("/", {}, 404),
        ("/wrong/", {}, 404),
        ("/secret", {}, 404),
        ("/secret/", {"Host": "evil.example"}, 403),
        ("/secret/", {"Host": "127.0.0.1.evil.example"}, 403),
        ("/secret/", {"Host": "[::1"}, 403),
        ("/secret/", {"Host": "localhost:9"}, 200),
        ("/secret/", {"Origin": "http://evil.example"}, 403),
        ("/secret/", {"Origin": "null"}, 403),
        ("/secret/", {"Origin": HOST}, 200),
        ("/secret/nothing", {}, 404),
        ("/secret/../play.js", {}, 404),
        ("/secret/frame/none/0", {}, 404),
        ("/secret/real/0/99", {}, 404),
        ("/secret/real/7/0", {}, 404),
        ("/secret/clip/none.mp4", {}, 404),
    ],
)
def test_only_this_page_is_answered(client, path, headers, status):
    assert client.get(path, headers=headers).status_code == status


def test_pages_trust_only_themselves(client):
    answer = client.get("/secret/")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "connect-src 'self' ws://127.0.0.1:8000;" in policy
    assert client.post("/secret/").status_code == 405


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/secret/live", {"Host": "evil.example"}),
        ("/secret/live", {"Origin": "http://evil.example"}),
        ("/wrong/live", {}),
    ],
)
def test_a_socket_of_another_site_is_refused(client, path, headers):
    with pytest.raises(WebSocketDisconnect), client.websocket_connect(f"ws://127.0.0.1:8000{path}", headers=headers):
        pass


def test_the_page_learns_how_to_drive(client):
    with client.websocket_connect("ws://127.0.0.1:8000/secret/live") as socket:
        hello = Page(socket).hello
    assert [axis["name"] for axis in hello["axes"]] == ["x", "y", "z", "gripper"]
    assert (hello["size"], hello["fps"], hello["scenes"]) == ([64, 64], 10.0, ["logged", "photograph"])
    assert (hello["log"]["length"], hello["policy"], hello["judge"]) == (7, True, {"name": "counting", "live": True})


def test_driving_undo_fork_and_resample(client):
    with client.websocket_connect("ws://127.0.0.1:8000/secret/live") as socket:
        page = Page(socket)
        first = page.do("drive", lines=["A"], action=[1, 0, 0, -1])
        second = page.do("drive", lines=["A"], action=[0, 2, 0, -1])
        assert (second["parent"], second["depth"], second["action"]) == (first["id"], 2, [0, 1, 0, -1])
        assert (second["judge"], second["origin"], second["log"]) == (0.02, "hand", False)
        assert page.do("undo", line="A") == first
        assert page.do("redo", line="A") == second
        page.do("fork", line="A", depth=1)
        assert page.lines["B"]["tip"] == first["id"]
        page.do("drive", lines=["A", "B"], action=[0, 0, 0, 0])
        assert page.nodes[page.lines["B"]["tip"]]["depth"] == 2
        before = page.lines["A"]["tip"]
        page.do("resample", line="A", depth=0)
        after = page.lines["A"]["tip"]
        assert not np.array_equal(page.frames[before], page.frames[after])
        assert page.do("undo", line="A")["id"] == before
        page.do("close", line="B")
        assert list(page.lines) == ["A"]
        answer = client.get(f"/secret/frame/{page.hello['visit']}/{before}")
        assert np.array_equal(np.array(Image.open(io.BytesIO(answer.content))), page.frames[before])


def test_the_policy_and_the_log_stream_frames(client):
    with client.websocket_connect("ws://127.0.0.1:8000/secret/live") as socket:
        page = Page(socket)
        tip = page.do("play", by="log", lines=["A"], speed=0)
        assert (tip["depth"], tip["log"], tip["origin"]) == (6, True, "log")
        assert tip["error"] > 0
        tip = page.do("play", by="policy", lines=["A"], speed=0, frames=4)
        assert (tip["depth"], tip["origin"], tip["error"]) == (10, "policy", None)
        page.do("fork", line="A")
        page.do("play", by="policy", lines=["A", "B"], speed=0, frames=2)
        assert [page.nodes[line["tip"]]["depth"] for line in page.lines.values()] == [12, 12]
        assert page.do("play", by="still", lines=["A"], speed=0, frames=1)["action"][:3] == [0, 0, 0]


def test_a_command_ends_a_stream_without_end(client):
    with client.websocket_connect("ws://127.0.0.1:8000/secret/live") as socket:
        page = Page(socket)
        socket.send_json({"do": "play", "by": "still", "lines": ["A"], "speed": 0})
        page.until("frame")
        socket.send_json({"do": "stop"})
        page.until("lines")  # of the stream
        page.until("lines")
        depth = page.nodes[page.lines["A"]["tip"]]["depth"]
        assert page.do("drive", lines=["A"], action=[0, 0, 0, 0])["depth"] == depth + 1


def test_a_sentence_changes_beliefs_and_a_scene_starts_over(client):
    with client.websocket_connect("ws://127.0.0.1:8000/secret/live") as socket:
        page = Page(socket)
        page.do("drive", lines=["A"], action=[0, 0, 0, 0])
        socket.send_json({"do": "say", "text": " shut  the door "})
        assert page.until("said")["instruction"] == "shut the door"
        page.until("lines")
        assert page.nodes[1]["judge"] == 0.02  # the judge was asked again, off its stride
        assert page.do("open", scene=1)["depth"] == 0
        assert page.lines["A"]["undo"] == 0


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ({"do": "drive", "lines": ["A"], "action": [1]}, "expected 4"),
        ({"do": "drive", "lines": ["Z"], "action": [0, 0, 0, 0]}, "expected A"),
        ({"do": "drive", "lines": ["A", "A"], "action": [0, 0, 0, 0]}, "each once"),
        ({"do": "drive", "lines": "A", "action": [0, 0, 0, 0]}, "list of names"),
        ({"do": "play", "by": "magic", "lines": ["A"]}, "expected policy, log or still"),
        ({"do": "play", "by": "log", "lines": ["A"], "speed": "fast"}, "expected a number"),
        ({"do": "undo", "line": "A", "count": -1}, "whole number"),
        ({"do": "open", "scene": 9}, "expected 0 to 1"),
        ({"do": "say", "text": "  "}, "expected a sentence"),
        ({"do": "say", "text": "x" * 401}, "at most 400"),
        ({"do": "fork", "line": None}, "expected A"),
    ],
)
def test_wrong_commands_are_answered_and_the_page_goes_on(client, command, text):
    with client.websocket_connect("ws://127.0.0.1:8000/secret/live") as socket:
        page = Page(socket)
        socket.send_json(command)
        assert text in page.until("error")["text"]
        page.until("lines")
        assert page.do("drive", lines=["A"], action=[0, 0, 0, 0])["depth"] == 1


@pytest.mark.parametrize("text", ["no json", "[]", '{"do": "explode"}', "{" + " " * 20_000 + "}"])
def test_what_is_no_command_ends_the_connection(client, text):
    with client.websocket_connect("ws://127.0.0.1:8000/secret/live") as socket:
        page = Page(socket)
        socket.send_text(text)
        with pytest.raises(WebSocketDisconnect):
            page.until("lines")


def test_a_reload_finds_its_session_and_a_third_page_is_refused(client):
    with client.websocket_connect("ws://127.0.0.1:8000/secret/live") as socket:
        page = Page(socket)
        page.do("drive", lines=["A"], action=[0, 0, 0, 0])
    visit = page.hello["visit"]
    with client.websocket_connect(f"ws://127.0.0.1:8000/secret/live?visit={visit}") as socket:
        again = Page(socket)
        assert again.hello["visit"] == visit
        assert again.nodes[again.lines["A"]["tip"]]["depth"] == 1
        with client.websocket_connect(f"ws://127.0.0.1:8000/secret/live?visit={visit}&scene=1") as second:
            other = Page(second)
            assert other.hello["visit"] != visit
            assert other.hello["scene"] == 1
            with client.websocket_connect("ws://127.0.0.1:8000/secret/live") as third:
                assert "2 sessions are open" in third.receive_json()["text"]
    with client.websocket_connect("ws://127.0.0.1:8000/secret/live") as socket:  # a closed session makes room
        assert Page(socket).hello["visit"] != visit


def test_a_clip_and_a_start_can_be_taken_along(client, tmp_path):
    from worldgymnast.episodes.starts import read_starts
    from worldgymnast.video import decode

    with client.websocket_connect("ws://127.0.0.1:8000/secret/live") as socket:
        page = Page(socket)
        page.do("play", by="log", lines=["A"], speed=0)
        visit, tip = page.hello["visit"], page.lines["A"]["tip"]
        clip = client.get(f"/secret/clip/{visit}.mp4?lines=A&real=1")
        start = client.get(f"/secret/start/{visit}/{tip}.zip")
        assert client.get(f"/secret/clip/{visit}.mp4?lines=").status_code == 404
    (tmp_path / "clip.mp4").write_bytes(clip.content)
    assert decode(tmp_path / "clip.mp4").shape == (7, 256, 520, 3)
    with zipfile.ZipFile(io.BytesIO(start.content)) as archive:
        archive.extractall(tmp_path / "starts")
    found = read_starts(tmp_path / "starts", None)[0]
    assert np.array_equal(found.frame, page.frames[tip])
    assert (found.instruction, found.task) == ("open the drawer", "drawer-open")


def test_turns_are_in_order_of_arrival():
    import threading

    turns, order = Turns(), []

    def take(name):
        with turns():
            order.append(name)

    threads = []
    with turns():
        for name in range(5):
            threads.append(threading.Thread(target=take, args=(name,)))
            threads[-1].start()
            while turns.waiting <= name:
                pass
    for thread in threads:
        thread.join()
    assert order == [0, 1, 2, 3, 4]
