"""The playground in a real browser: keys move the arm, undo, fork, and nothing is reported to the console."""

import json
import re
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from browser import CHROMIUM, FAINT, UNNAMED, open_tab
from run_builders import seed_run
from small_worlds import SMALL
from starlette.applications import Starlette
from starlette.testclient import TestClient
from websockets.sync.client import connect

from worldgymnast.actions import BRIDGE
from worldgymnast.cli.commands.play import Play
from worldgymnast.cli.main import main
from worldgymnast.playground.guard import Guard
from worldgymnast.playground.server import Server
from worldgymnast.registry import Manifest, save_component
from worldgymnast.video import png
from worldgymnast.worldmodel.sampler import LatentWorldModel

pytestmark = pytest.mark.server
in_browser = pytest.mark.skipif(not CHROMIUM, reason="no Chromium")
DEPTH = "Number((document.getElementById('when')?.textContent.match(/frame (\\d+)/) ?? [0, -1])[1])"
PIXELS = "document.querySelector('canvas').toDataURL()"
IS_DRAWN = "document.querySelector('canvas').getContext('2d').getImageData(9, 9, 1, 1).data[3] === 255"
ERRORS = """
window.found = [];
addEventListener("error", event => found.push(String(event.message)));
addEventListener("unhandledrejection", event => found.push(String(event.reason)));
addEventListener("securitypolicyviolation", event => found.push(event.violatedDirective));
console.error = (...words) => found.push(words.join(" "));
"""


@contextmanager
def served(*words: str) -> Iterator[str]:
    """The address that a command prints."""
    command = [sys.executable, "-m", "worldgymnast", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        try:
            yield next(match[0] for line in lines if (match := re.search(r"http://\S+", line)))
        finally:  # a failed check ends the server too, and the test with it
            process.terminate()


def hold(tab, key, seconds):
    tab.call("Input.dispatchKeyEvent", type="keyDown", key=key, text=key)
    time.sleep(seconds)
    tab.call("Input.dispatchKeyEvent", type="keyUp", key=key)


def check_readable(tab):
    """Check contrast, names and width, on a desk and on a phone, by day and by night."""
    for width in (1280, 390):
        tab.call("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 500)
        for theme in ("light", "dark"):
            tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])
            assert tab.run("document.documentElement.scrollWidth") <= width
            assert tab.run(FAINT) == []
            assert tab.run(UNNAMED) == []


def settled_depth(tab, seconds=0.5):
    """Number of the frame once no further frame is on its way from the server."""
    depth = None
    while depth != (depth := tab.run(DEPTH)):
        time.sleep(seconds)
    return depth


@in_browser
def test_a_person_drives_by_keyboard(tmp_path):
    with served("play", "--threads", "1") as url, open_tab(tmp_path / "profile") as tab:
        tab.call("Page.enable")
        tab.call("Page.addScriptToEvaluateOnNewDocument", source=ERRORS)
        tab.call("Page.navigate", url=url)
        tab.until(f"{DEPTH} === 0")
        tab.until(IS_DRAWN)
        before = tab.run(PIXELS)
        hold(tab, "d", 0.6)
        tab.until(f"{DEPTH} > 2 && document.getElementById('link').textContent === 'ready'")
        depth, after = settled_depth(tab), tab.run(PIXELS)
        assert before != after
        tab.press("u", "u")
        tab.until(f"{DEPTH} === {depth - 1}")
        tab.press("U", "U", modifiers=8)
        tab.until(f"{DEPTH} === {depth} && {PIXELS} === {after!r}")
        tab.press("Home")
        tab.until(f"{DEPTH} === 0 && {PIXELS} === {before!r}")
        tab.press("t", "t")
        tab.until("document.querySelectorAll('.screen').length === 3")  # two lines and the real video
        tab.press("p", "p")
        tab.until(f"{DEPTH} > 3")
        tab.press("Escape")
        tab.until("document.getElementById('link').textContent === 'ready'")
        assert (
            tab.run("fetch('clip/' + sessionStorage.getItem('worldgymnast-visit') + '.mp4').then(a => a.status)") == 200
        )
        tab.call("Page.reload")
        tab.until(f"document.querySelectorAll('.screen').length === 3 && {DEPTH} >= 0")
        check_readable(tab)
        tab.run("document.getElementById('pad').scrollIntoView({block: 'end'})")
        top, end = tab.run(
            "(({top, bottom}) => [top, bottom])(document.querySelector('canvas').getBoundingClientRect())"
        )
        assert 0 <= top < end <= 800, "on a phone the picture stays in sight beside the pad"
        assert tab.run("window.found") == []


def test_a_page_that_is_cut_off_stops_its_stream_and_can_come_back():
    with served("play", "--threads", "1", "--sessions", "1") as url:
        address = url.replace("http:", "ws:") + "live"
        with connect(address, max_size=None) as page:
            visit = json.loads(page.recv())["visit"]
            page.send(json.dumps({"do": "play", "by": "still", "lines": ["A"], "speed": 0}))
            for _ in range(6):
                page.recv()
            page.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            page.socket.close()  # without a goodbye
        time.sleep(1)
        counts = []
        for _ in range(2):
            with connect(f"{address}?visit={visit}", max_size=None) as page:
                assert json.loads(page.recv())["visit"] == visit
                counts.append(len(json.loads(page.recv())["nodes"]))
            time.sleep(0.5)
        assert counts[0] == counts[1] > 2


@in_browser
def test_a_run_is_watched_while_it_grows(tmp_path):
    run = seed_run(tmp_path)
    with served("watch", str(run)) as url, open_tab(tmp_path / "profile") as tab:
        tab.call("Page.enable")
        tab.call("Page.addScriptToEvaluateOnNewDocument", source=ERRORS)
        tab.call("Page.navigate", url=url)
        tab.until("document.querySelectorAll('.curve').length > 1 && document.querySelectorAll('.tile').length > 1")
        assert "25 % → 75 %" in tab.run("document.getElementById('verdicttext').textContent")
        with (run / "metrics.jsonl").open("a") as file:
            file.write('{"step": 6, "time": 2.0, "reward": 0.93}\n')
        tab.until("document.querySelector('.tile').textContent.includes('93 %')")
        with (run / "metrics.jsonl").open("a") as file:
            file.write('{"step": 7, "time": 3.0, "reward": 0.625}\n')
        tab.until("document.querySelector('.tile').textContent.includes('62 %')")  # as Python rounds
        check_readable(tab)
        assert tab.run("window.found") == []


def test_small_messages_are_sent_at_once():
    """asyncio turns Nagle's algorithm off only for sockets that name TCP; with it each frame waits 40 ms."""
    server = Server(Guard(Starlette()))
    with server._socket as listening:
        assert listening.proto == socket.IPPROTO_TCP


def test_a_missing_package_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "websockets", None)
    assert main(["play"]) == 2
    assert "pip install 'worldgymnast[play]'" in capsys.readouterr().err


def test_a_world_of_another_robot_needs_a_start_and_gets_no_starter_parts(tmp_path, capsys):
    config = replace(SMALL, transformer=replace(SMALL.transformer, action_dim=7))
    world = LatentWorldModel(config, BRIDGE, 5.0)
    path = tmp_path / "world.safetensors"
    save_component(path, world, Manifest())
    assert main(["play", str(path)]) == 2
    assert "--start, --data: both are missing" in capsys.readouterr().err
    picture = tmp_path / "scene.png"
    picture.write_bytes(png(np.zeros((64, 64, 3), np.uint8)))
    command = Play(world=(path,), start=picture, instruction="open it")
    app, speed, count = command.build()
    assert (count, speed > 0) == (1, True)
    base = "http://127.0.0.1:1"
    with TestClient(app, base_url=base).websocket_connect(f"ws://127.0.0.1:1/{app.token}/live") as socket:
        hello = socket.receive_json()
    assert (hello["policy"], hello["judge"], len(hello["axes"])) == (False, None, 7)
    assert hello["instruction"] == "open it"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a", "b"], "WORLD: found 2 files"),
        (["--start", "x.png", "--data", "y"], "--start and --data: found both"),
        (["--instruction", "open it"], "needs --start PICTURE"),
        (
            ["--start", str(Path(__file__).parent), "--instruction", "open it"],
            "its starts have instructions of their own",
        ),
        (["--start", "nothing.png"], "nothing.png"),
        (["missing.safetensors"], "missing.safetensors"),
    ],
)
def test_wrong_words_are_one_line(words, message, capsys):
    assert main(["play", *words]) == 2
    line = capsys.readouterr().err.strip()
    assert message in line
    assert "\n" not in line
