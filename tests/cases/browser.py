"""Headless Chromium, driven by its own protocol over two pipes: what a page says, does and looks like."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from contextlib import contextmanager
from itertools import count

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SILENCE_SECONDS = 60
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--remote-debugging-pipe",
)  # fmt: skip
KEYS = {"Tab": 9, "End": 35, "Home": 36, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Escape": 27, "Enter": 13}  # fmt: skip


class Browser:
    """One Chromium; `page` opens a tab."""

    def __init__(self, profile):
        to_read, self.writes = os.pipe()
        self.reads, to_write = os.pipe()

        def become_three_and_four():
            # Moved out of the way first: either may be 3 or 4 already.
            one, other = os.dup2(to_read, 60), os.dup2(to_write, 61)
            os.dup2(one, 3)
            os.dup2(other, 4)

        self.process = subprocess.Popen(
            [CHROMIUM, *FLAGS, f"--user-data-dir={profile}"],
            preexec_fn=become_three_and_four,
            close_fds=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_read)
        os.close(to_write)
        self.numbers, self.rest, self.events = count(1), b"", []

    def ask(self, method, session=None, **params):
        """The answer to one command; events that come before it are kept."""
        number = next(self.numbers)
        said = {"id": number, "method": method, "params": params} | (
            {"sessionId": session} if session else {}
        )
        os.write(self.writes, json.dumps(said).encode() + b"\0")
        while True:
            told = self._read()
            if told.get("id") == number:
                assert "error" not in told, (method, told["error"])
                return told["result"]
            self.events.append(told)

    def _read(self):
        while b"\0" not in self.rest:
            assert select.select([self.reads], [], [], SILENCE_SECONDS)[0], "Chromium says nothing"
            chunk = os.read(self.reads, 1 << 20)
            assert chunk, "Chromium is gone"
            self.rest += chunk
        line, _, self.rest = self.rest.partition(b"\0")
        return json.loads(line)

    def page(self, address, **look):
        """A new tab with the page loaded."""
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session)
        for domain in ("Page", "Runtime", "Log"):
            page.ask(f"{domain}.enable")
        page.look(**look)
        page.ask("Page.navigate", url=address)
        page.wait("document.readyState == 'complete' && location.href != 'about:blank'")
        return page

    def close(self):
        """Ends it."""
        self.ask("Browser.close")
        self.process.wait(SILENCE_SECONDS)
        os.close(self.writes)
        os.close(self.reads)


class Page:
    """One tab."""

    def __init__(self, browser, session):
        self.browser, self.session = browser, session

    def ask(self, method, **params):
        """A command to this tab."""
        return self.browser.ask(method, self.session, **params)

    def look(self, width=1200, height=900, scale=1, dark=False, script=True):
        """How the page is seen: size, density, colour scheme, and whether its scripts run."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": False}
        self.ask("Emulation.setDeviceMetricsOverride", **metrics)
        self.ask("Emulation.setScrollbarsHidden", hidden=True)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])
        self.ask("Emulation.setScriptExecutionDisabled", value=not script)

    def tell(self, expression):
        """The value of an expression in the page."""
        result = self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait(self, expression):
        """Until an expression holds."""
        ends = time.monotonic() + SILENCE_SECONDS
        while not self.tell(expression):
            assert time.monotonic() < ends, f"never came: {expression}"

    def press(self, *keys):
        """Presses and releases keys, each by its name, or types a text."""
        for key in keys:
            if key not in KEYS:
                self.ask("Input.insertText", text=key)
                continue
            named = {"key": key, "code": key, "windowsVirtualKeyCode": KEYS[key]}
            text = {"text": "\r"} if key == "Enter" else {}
            self.ask("Input.dispatchKeyEvent", type="keyDown", **named, **text)
            self.ask("Input.dispatchKeyEvent", type="keyUp", **named)

    @property
    def dom(self):
        """The document as it is now."""
        return self.tell("document.documentElement.outerHTML")

    @property
    def console(self):
        """What was said on the console, errors and refusals of the policy included."""
        said = []
        self.tell("1")
        for event in self.browser.events:
            if event.get("sessionId") == self.session:
                params = event["params"]
                if event["method"] == "Log.entryAdded":
                    said.append(params["entry"]["text"])
                elif event["method"] == "Runtime.exceptionThrown":
                    said.append(str(params["exceptionDetails"]))
                elif event["method"] == "Runtime.consoleAPICalled":
                    said.append(str(params["args"]))
        return said

    def picture(self, file, *, whole=True):
        """A PNG of the page, or of what is in view."""
        shot = self.ask("Page.captureScreenshot", captureBeyondViewport=whole)
        file.write_bytes(base64.b64decode(shot["data"]))

    def printed(self):
        """The page as a PDF on A4."""
        made = self.ask("Page.printToPDF", paperWidth=8.27, paperHeight=11.69, printBackground=True)
        return base64.b64decode(made["data"])


@contextmanager
def chromium(profile):
    """A browser until the block ends."""
    browser = Browser(profile)
    try:
        yield browser
    finally:
        browser.close()
