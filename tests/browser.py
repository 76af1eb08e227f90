"""A headless Chromium, spoken to over the WebDriver protocol with nothing but the standard library."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
DRIVER = shutil.which("chromedriver")
PATIENCE = 60  # seconds for one command; a busy machine is slow
ENTER, ESCAPE, CONTROL, END, LEFT, RIGHT = "\ue007", "\ue00c", "\ue009", "\ue010", "\ue012", "\ue014"
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"


def why_not() -> str:
    """What is missing for a test in a browser; empty where nothing is."""
    missing = [name for name, path in (("chromium", CHROMIUM), ("chromedriver", DRIVER)) if path is None]
    return f"no {' and no '.join(missing)} on this machine" if missing else ""


class Browser:
    """One session. `script` runs JavaScript and returns what it returns; elements are named by CSS selectors."""

    def __init__(self, address: str):
        self.address = address
        options = {
            "binary": CHROMIUM,
            "args": ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"],
        }
        wanted = {
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
            "timeouts": {"script": PATIENCE * 1000, "pageLoad": PATIENCE * 1000},
        }
        made = _call(f"{address}/session", {"capabilities": {"alwaysMatch": wanted}})
        self.session = f"{address}/session/{made['sessionId']}"
        self.features: dict[str, str] = {}

    def open(self, page: Path) -> None:
        self.post("url", url=page.resolve().as_uri())

    def script(self, code: str, *arguments: Any) -> Any:
        return self.post("execute/sync", script=code, args=list(arguments))

    def until(self, code: str, *arguments: Any) -> Any:
        """What `script` returns, once that is true."""
        deadline = time.monotonic() + PATIENCE
        while not (found := self.script(code, *arguments)):
            assert time.monotonic() < deadline, f"never true: {code}"
            time.sleep(0.05)
        return found

    def click(self, selector: str) -> None:
        self.post(f"element/{self._find(selector)}/click")

    def type(self, selector: str, text: str) -> None:
        """Keys pressed at an element, which takes the focus."""
        self.post(f"element/{self._find(selector)}/value", text=text)

    def press(self, keys: str) -> None:
        """Keys pressed one after the other, wherever the focus is; a Control is held down until the last."""
        strokes = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        if keys.startswith(CONTROL):
            strokes = [strokes[0], *strokes[2:], strokes[1]]
        self.post("actions", actions=[{"type": "key", "id": "keyboard", "actions": strokes}])

    def point(self, selector: str, x: int = 0, y: int = 0) -> None:
        """Moves the pointer to x, y pixels from the middle of an element."""
        origin = {_ELEMENT: self._find(selector)}
        move = {"type": "pointerMove", "origin": origin, "x": x, "y": y, "duration": 0}
        mouse = {"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}, "actions": [move]}
        self.post("actions", actions=[mouse])

    def devtools(self, command: str, **parameters: Any) -> Any:
        return self.post("goog/cdp/execute", cmd=command, params=parameters)

    def size(self, width: int, height: int, *, phone: bool = False) -> None:
        """What the page takes the screen to be."""
        self.devtools(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone
        )

    def prefer(self, **features: str) -> None:
        """Media features of the system, beside those that were set before: `prefers_color_scheme="dark"`."""
        self.features |= features
        wanted = [{"name": name.replace("_", "-"), "value": value} for name, value in self.features.items()]
        self.devtools("Emulation.setEmulatedMedia", features=wanted)

    def errors(self) -> list[str]:
        """What the console has said since the last time, warnings included."""
        return [entry["message"] for entry in self.post("se/log", type="browser") if entry["level"] != "INFO"]

    def requests(self) -> list[str]:
        """The address of everything that the page has asked for since the last time, itself included."""
        messages = [json.loads(entry["message"])["message"] for entry in self.post("se/log", type="performance")]
        sent = [message["params"] for message in messages if message["method"] == "Network.requestWillBeSent"]
        return [params["request"]["url"] for params in sent]

    def picture(self, file: Path) -> None:
        """The whole page, from top to bottom, as PNG."""
        size = self.devtools("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        made = self.devtools("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        file.write_bytes(base64.b64decode(made["data"]))

    def close(self) -> None:
        _call(self.session, method="DELETE")

    def post(self, command: str, **body: Any) -> Any:
        return _call(f"{self.session}/{command}", body)

    def _find(self, selector: str) -> str:
        found: dict[str, str] = self.post("element", using="css selector", value=selector)
        return found[_ELEMENT]


@contextmanager
def browser() -> Iterator[Browser]:
    """A browser of its own, that is gone afterwards."""
    assert DRIVER is not None
    with tempfile.TemporaryFile("w+") as log:
        driver = subprocess.Popen([DRIVER, "--port=0"], stdout=log, stderr=subprocess.STDOUT, text=True)
        session = None
        try:
            session = Browser(f"http://127.0.0.1:{_port(driver, log)}")
            yield session
        finally:
            if session is not None:
                session.close()
            driver.terminate()
            driver.wait(PATIENCE)


def _port(driver: subprocess.Popen[str], log: Any) -> int:
    """The port that the driver chose, once it says so."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and driver.poll() is None:
        log.seek(0)
        _, found, rest = log.read().partition("started successfully on port ")
        if found and "." in rest:
            return int(rest.partition(".")[0])
        time.sleep(0.05)
    log.seek(0)
    raise RuntimeError(f"chromedriver did not start: {log.read()}")


def _call(address: str, body: dict[str, Any] | None = None, method: str | None = None) -> Any:
    content = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address, content, {"Content-Type": "application/json"}, method=method)
    # a proxy of the environment is not between us and ourselves
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=2 * PATIENCE) as answer:
            return json.load(answer)["value"]
    except urllib.error.HTTPError as error:
        said = json.load(error)["value"]
        raise RuntimeError(f"{said['error']}: {said['message']}") from None
