"""Headless Chromium, driven through a pipe: what a page looks like to a reader, and what it asks the network for."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
LIMIT_S = 60.0
A4_WIDTH, A4_MARGIN = 794, 53
"""CSS pixels of a sheet, and the page's own side margin (14 mm)."""

_LOOK = """
(() => {
  const canvas = document.createElement('canvas'); canvas.width = canvas.height = 1;
  const context = canvas.getContext('2d', {willReadFrequently: true});
  const mixed = colors => {
    for (const color of colors) { context.fillStyle = color; context.fillRect(0, 0, 1, 1); }
    return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const light = rgb => {
    const [r, g, b] = rgb.map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = element => {
    const found = [];
    for (let e = element; e; e = e.parentElement) found.unshift(getComputedStyle(e).backgroundColor);
    return [getComputedStyle(document.body).backgroundColor, ...found];
  };
  const texts = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim(), element = walker.currentNode.parentElement;
    if (!text || !element.getClientRects().length) continue;
    const style = getComputedStyle(element), svg = element.closest('svg');
    if (style.visibility === 'hidden') continue;
    const scale = svg ? svg.getBoundingClientRect().width / svg.viewBox.baseVal.width : 1;
    const ground = behind(element), ink = svg ? style.fill : style.color;
    const a = light(mixed([...ground, ink])), b = light(mixed(ground));
    texts.push({text: text.slice(0, 40), size: parseFloat(style.fontSize) * scale,
      contrast: (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)});
  }
  const root = document.documentElement;
  const out = [...document.querySelectorAll('body *')].filter(e => {
    const box = e.getBoundingClientRect();
    return box.width && box.right > root.clientWidth + 1 && !e.closest('.scroll') && !e.closest('.card');
  }).map(e => e.tagName + '.' + e.className);
  const cut = [...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth + 1).length;
  const images = [...document.images].filter(i => !i.complete || !i.naturalWidth).length;
  return JSON.stringify({width: root.scrollWidth, height: root.scrollHeight, texts, out, cut, images});
})()
"""


class Text(msgspec.Struct, frozen=True):
    """A visible piece of text: its height in CSS pixels, and its contrast against what lies behind it (WCAG 2)."""

    text: str
    size: float
    contrast: float


class Look(msgspec.Struct, frozen=True):
    """A page as it is laid out.

    Attributes:
        width, height: Of all of it, in CSS pixels; wider than the window means that a reader must scroll sideways.
        texts: All visible text.
        out: Elements that reach beyond the right edge, other than in boxes that scroll by themselves.
        cut: Boxes whose content is wider than they are: they scroll on a screen, and are cut off on paper.
        images: Pictures that are not shown.
    """

    width: int
    height: int
    texts: list[Text]
    out: list[str]
    cut: int
    images: int


class Browser:
    """One browser; its pages have nothing but files and what they carry themselves.

    Args:
        to_it, from_it: Ends of the two pipes.
    """

    def __init__(self, to_it: int, from_it: int) -> None:
        self._to, self._from, self._buffer = to_it, from_it, b""
        self._numbers = itertools.count(1)
        self._session: str | None = None
        self.requests: list[str] = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime"):
            self._call(f"{domain}.enable")

    def _call(self, method: str, **arguments: Any) -> dict[str, Any]:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": arguments}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            heard = self._next()
            if heard.get("id") == number:
                assert "error" not in heard, heard
                found: dict[str, Any] = heard["result"]
                return found

    def _next(self) -> dict[str, Any]:
        until_s = time.monotonic() + LIMIT_S
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._from], [], [], max(0.0, until_s - time.monotonic()))
            assert ready, f"Chromium said nothing for {LIMIT_S:g} s"
            self._buffer += (piece := os.read(self._from, 1 << 20))
            assert piece, "Chromium closed its pipe"
        line, self._buffer = self._buffer.split(b"\0", 1)
        heard: dict[str, Any] = json.loads(line)
        if heard.get("method") == "Network.requestWillBeSent":
            self.requests.append(heard["params"]["request"]["url"])
        return heard

    def show(self, page: Path, *, width: int, dark: bool = False, paper: bool = False) -> Look:
        """Opens a page and looks at it.

        Args:
            page: The file.
            width: Of the window, in CSS pixels.
            dark: The reader asks for dark colours.
            paper: Laid out as for print.
        """
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", media="print" if paper else "screen", features=[scheme])
        self._call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600
        )
        self._call("Page.navigate", url=page.resolve().as_uri())
        while self._next().get("method") != "Page.loadEventFired":
            pass
        found = self._call("Runtime.evaluate", expression=_LOOK)["result"]
        assert found["type"] == "string", found
        return msgspec.json.decode(found["value"], type=Look)

    def picture(self, path: Path) -> None:
        """Writes the whole page that is shown as a PNG."""
        size = self._call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        shot = self._call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(shot["data"]))

    def pdf(self, path: Path) -> None:
        """Prints the page that is shown on A4, with the page's own margins."""
        printed = self._call("Page.printToPDF", preferCSSPageSize=True, paperWidth=8.27, paperHeight=11.69)
        path.write_bytes(base64.b64decode(printed["data"]))


@contextlib.contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """Starts Chromium and ends it.

    Args:
        profile: A folder for its profile.
    """
    assert PROGRAM is not None
    down, up = os.pipe(), os.pipe()

    # It reads commands from descriptor 3 and answers on 4.
    command = [
        PROGRAM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
        "--no-first-run", "--disable-extensions", "--disable-background-networking", "--disable-component-update",
        f"--user-data-dir={profile}", "--remote-debugging-pipe",
    ]  # fmt: skip
    process = subprocess.Popen(
        ["bash", "-c", f'exec "$@" 3<&{down[0]} 4>&{up[1]}', "bash", *command],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, pass_fds=(down[0], up[1]),
    )  # fmt: skip
    os.close(down[0])
    os.close(up[1])
    try:
        yield Browser(down[1], up[0])
    finally:
        os.close(down[1])
        os.close(up[0])
        process.terminate()
        process.wait(30)
