"""A headless Chromium, driven through its debugging pipe."""

import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), ""
)

FAINT = """
(() => {
  const parse = text => text.match(/[\\d.]+/g).map(Number);
  const part = value => value / 255 <= .03928 ? value / 255 / 12.92 : ((value / 255 + .055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => .2126 * part(r) + .7152 * part(g) + .0722 * part(b);
  const paper = element => {
    for (; element; element = element.parentElement) {
      const color = parse(getComputedStyle(element).backgroundColor);
      if (color[3] !== 0) return color;
    }
  };
  const opacity = element => {
    let value = 1;
    for (; element; element = element.parentElement) value *= Number(getComputedStyle(element).opacity);
    return value;
  };
  const hasText = element => [...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
  const isVisible = element => element.checkVisibility({visibilityProperty: true}) && !element.closest(":disabled");
  const isShown = element => isVisible(element) && hasText(element);
  const shown = [...document.querySelectorAll("body *")].filter(isShown);
  const ratio = element => {
    const behind = paper(element), share = opacity(element), color = parse(getComputedStyle(element).color);
    const seen = color.slice(0, 3).map((value, i) => share * value + (1 - share) * behind[i]);
    const [a, b] = [light(seen), light(behind)].sort((x, y) => y - x);
    return (a + .05) / (b + .05);
  };
  return shown.filter(each => ratio(each) < 4.5).map(each => each.outerHTML.slice(0, 80));
})()
"""
"""Script for the elements whose text has a contrast below 4.5:1; disabled controls may be fainter."""
UNNAMED = """
[...document.querySelectorAll("a, button, input, select, video, img")].filter(each => each.checkVisibility() && !(
  each.getAttribute("aria-label") || each.labels?.length || each.hasAttribute("alt") || each.textContent.trim())
).map(each => each.outerHTML.slice(0, 80))
"""
"""Script for the controls and pictures that have no name."""


class Tab:
    """One page."""

    def __init__(self, send: int, receive: int):
        self._send, self._receive, self._number, self._rest = send, receive, 0, b""
        self._session: str | None = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._send, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + 30
        while True:
            while b"\0" not in self._rest:
                if not select.select([self._receive], [], [], max(0, end - time.monotonic()))[0]:
                    raise TimeoutError(method)
                self._rest += os.read(self._receive, 2**16)
            line, _, self._rest = self._rest.partition(b"\0")
            answer = json.loads(line)
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def run(self, script: str) -> Any:
        """Value of a JavaScript expression."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def until(self, script: str, seconds: float = 20) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + seconds
        while not self.run(script):
            assert time.monotonic() < end, f"not within {seconds} s: {script}"
            time.sleep(0.05)

    def press(self, key: str, text: str = "", modifiers: int = 0) -> None:
        """Press and release a key."""
        for kind in ("keyDown", "keyUp"):
            extra = {"text": text} if text and kind == "keyDown" else {}
            self.call("Input.dispatchKeyEvent", type=kind, key=key, modifiers=modifiers, **extra)


@contextmanager
def open_tab(folder: Path) -> Iterator[Tab]:
    """Start the browser with its profile in `folder`."""
    (read, send), (receive, write) = os.pipe(), os.pipe()
    # The browser reads from descriptor 3 and writes to 4.
    command = (
        f'exec "{CHROMIUM}" --headless --no-sandbox --disable-gpu --remote-debugging-pipe "$@" 3<&{read} 4>&{write}'
    )
    process = subprocess.Popen(
        ["bash", "-c", command, "bash", f"--user-data-dir={folder}", "--window-size=900,980", "about:blank"],
        pass_fds=(read, write),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield Tab(send, receive)
    finally:
        process.terminate()
        process.wait(20)
        for handle in (read, send, receive, write):
            os.close(handle)
