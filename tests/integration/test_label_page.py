"""The labelling page: its server's refusals, and a person who uses the keyboard alone."""

import http.client
import json
from urllib.parse import urlsplit

import pytest
from browser import CHROMIUM, open_tab
from episode_builders import episodes

from worldgymnast.episodes.labels import LabelWriter, read_labels
from worldgymnast.episodes.windows import from_episodes
from worldgymnast.labelling.server import LabelServer
from worldgymnast.labelling.session import Session

NUMBERS = [3, 5, 8]


def session(path, labeller="anna"):
    return Session(from_episodes(episodes(3)), NUMBERS, LabelWriter(path, "mine"), labeller)


@pytest.fixture
def server(tmp_path):
    with LabelServer(session(tmp_path / "labels.jsonl")) as served:
        yield served


def ask(server, method="GET", path="", body=None, **headers):
    url = urlsplit(server.url)
    connection = http.client.HTTPConnection(url.hostname, url.port, timeout=10)
    content = json.dumps(body) if body is not None else None
    if method == "POST":
        headers = {"Content-Type": "application/json"} | {k.replace("_", "-"): v for k, v in headers.items()}
    connection.request(method, path if path.startswith("/") else url.path + path, content, headers)
    answer = connection.getresponse()
    return answer, answer.read()


def test_page_and_frames_are_served_with_a_strict_policy(server):
    answer, content = ask(server)
    policy = answer.getheader("Content-Security-Policy") or ""
    assert answer.status == 200
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    nonce = policy.partition("'nonce-")[2].partition("'")[0]
    assert f'<script nonce="{nonce}">'.encode() in content
    assert b"{{nonce}}" not in content
    answer, content = ask(server, path="frame/0/1.jpg")
    assert (answer.status, answer.getheader("Content-Type"), content[:2]) == (200, "image/jpeg", b"\xff\xd8")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ({"path": "/"}, 404),
        ({"path": "/wrong/"}, 404),
        ({"path": "/état/"}, 404),
        ({"Host": "evil.example"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": "[::1"}, 403),
        ({"path": "frame/0/999.jpg"}, 400),
        ({"path": "frame/9/0.jpg"}, 400),
        ({"path": "frame/0/../../state"}, 404),
        ({"path": "unknown"}, 404),
        ({"method": "POST", "path": "state", "body": {}}, 404),
        ({"method": "POST", "path": "undo", "body": {}, "Origin": "http://evil.example"}, 403),
        ({"method": "POST", "path": "undo", "body": {}, "Origin": "null"}, 403),
        ({"method": "POST", "path": "undo", "body": {}, "Content_Type": "text/plain"}, 415),
        ({"method": "POST", "path": "label", "body": {"x": "y" * 5000}}, 413),
        ({"method": "POST", "path": "label", "body": []}, 400),
        ({"method": "POST", "path": "label", "body": {"position": True, "success": True}}, 400),
        ({"method": "POST", "path": "label", "body": {"position": 0, "success": 1}}, 400),
        ({"method": "POST", "path": "label", "body": {"position": 0, "success": True, "frame": -1}}, 400),
        ({"method": "POST", "path": "label", "body": {"position": 7, "success": True}}, 400),
        ({"method": "POST", "path": "label", "body": {"position": 0, "success": True, "extra": 1}}, 400),
    ],
)
def test_everything_but_the_page_is_refused(server, request_, status):
    if "path" in request_ and not request_["path"].isascii():
        request_ = request_ | {"path": "/%C3%A9tat/"}
    answer, content = ask(server, **request_)
    assert answer.status == status
    assert json.loads(content)["error"]
    assert server.session.counts == (0, 0, 3)


def test_labels_are_on_the_disk_when_the_answer_comes(server, tmp_path):
    answer, content = ask(server, "POST", "label", {"position": 1, "success": True, "frame": 2})
    assert answer.status == 200
    assert json.loads(content)["number"] == 5
    (label,) = read_labels(tmp_path / "labels.jsonl").labels.values()
    assert (label.episode, label.success, label.frame, label.labeller) == (5, True, 2, "anna")


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium here")
def test_keyboard_alone_labels_undoes_skips_and_resumes(tmp_path):
    path = tmp_path / "labels.jsonl"
    with LabelServer(session(path)) as server, open_tab(tmp_path / "profile") as tab:
        tab.call("Page.navigate", url=server.url)
        number = "document.getElementById('meta')?.textContent.split(' ')[1]"
        tab.until(f"{number} === '3'")
        tab.run("setPlaying(false); show(0)")
        tab.press("ArrowRight")
        tab.press("ArrowRight")
        assert tab.run("frame") == 2
        tab.press("y", "y")  # success from frame 2 on
        tab.until(f"{number} === '5'")
        tab.press("n", "n")
        tab.until(f"{number} === '8'")
        tab.press("u", "u")  # back to 5
        tab.until(f"{number} === '5'")
        assert server.session.counts == (1, 0, 2)
        tab.press("s", "s")
        tab.until(f"{number} === '8'")
        tab.press("Y", "Y", modifiers=8)
        tab.until(f"{number} === '5'")  # the skipped one comes again
        tab.run("setPlaying(false)")
        tab.press(" ", " ")
        assert tab.run("playing")
        tab.run("setPlaying(false); document.getElementById('yes').focus()")
        tab.press("n", "n")
        tab.until("!document.getElementById('finished').hidden")
        assert tab.run("document.activeElement.id") == "finishedtitle"
        assert "2 of 3 succeeded" in tab.run("document.getElementById('finishedtext').textContent")
        tab.run("finish()")
        assert server.wait(20)
    labels = {label.episode: label for label in read_labels(path).labels.values()}
    assert {n: (labels[n].success, labels[n].frame) for n in NUMBERS} == {
        3: (True, 2),
        5: (False, None),
        8: (True, None),
    }
    assert session(path).counts == (2, 1, 0)
    assert session(path, "ben").counts == (0, 0, 3)  # another person starts anew


@pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium")
@pytest.mark.parametrize(("width", "height"), [(375, 667), (320, 640), (900, 980)])
def test_the_answers_are_on_the_screen_at_every_width(server, tmp_path, width, height):
    with open_tab(tmp_path / "profile") as tab:
        is_phone = width < 600
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": is_phone}
        tab.call("Emulation.setDeviceMetricsOverride", **size)
        tab.call("Emulation.setTouchEmulationEnabled", enabled=is_phone)
        tab.call("Page.navigate", url=server.url)
        tab.until("document.getElementById('meta')?.textContent && document.getElementById('picture').naturalWidth > 0")
        for name in ("yes", "no"):
            bottom = tab.run(f"document.getElementById('{name}').getBoundingClientRect().bottom")
            assert 0 < bottom <= height, (name, bottom)
        assert tab.run("document.documentElement.scrollWidth") <= width
        keys = tab.run("getComputedStyle(document.querySelector('#yes kbd')).display")
        assert (keys == "none") == is_phone, "key hints where there is a keyboard"
