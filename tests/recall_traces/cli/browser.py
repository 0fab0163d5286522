"""A headless Chromium, driven by chromedriver over plain HTTP (https://www.w3.org/TR/webdriver2)."""

import base64
import json
import re
import shutil
import subprocess
import urllib.request

import pytest

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


class Browser:
    """One window. Use it as a context.

    Args:
        place: An empty folder for the browser's own files.
        width: Of the window, in pixels of a style sheet.
        dark: Whether it prefers dark colours.
    """

    def __init__(self, place, width=1280, dark=False):
        self.place, self.width, self.dark = place, width, dark

    def __enter__(self):
        driver, chromium = shutil.which("chromedriver"), shutil.which("chromium")
        if driver is None or chromium is None:
            pytest.skip("there is no chromium with its chromedriver (Debian: apt install chromium chromium-driver)")
        self.process = subprocess.Popen([driver, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.address = None
        for line in self.process.stdout:
            found = re.search(r"started successfully on port (\d+)", line)
            if found:
                self.address = f"http://127.0.0.1:{found[1]}/session"
                break
        assert self.address, "chromedriver did not start"
        options = {"binary": chromium, "args": [*FLAGS, f"--user-data-dir={self.place}"]}
        wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        try:
            session = self.ask("", {"capabilities": {"alwaysMatch": wanted}})
        except BaseException:
            self.stop()
            raise
        self.address += f"/{session['sessionId']}"
        self.command(
            "Emulation.setDeviceMetricsOverride", width=self.width, height=844, deviceScaleFactor=1, mobile=self.width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if self.dark else "light"}
        self.command("Emulation.setEmulatedMedia", features=[scheme])
        return self

    def __exit__(self, *_):
        try:
            self.ask("", method="DELETE")
        finally:
            self.stop()

    def stop(self):
        self.process.terminate()
        self.process.wait(30)
        self.process.stdout.close()

    def ask(self, path, body=None, method=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, data, {"Content-Type": "application/json"}, method=method)
        # Whatever proxy there is, the driver is on this machine.
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=120) as answer:
            return json.load(answer)["value"]

    def command(self, name, **params):
        """One of the DevTools protocol."""
        return self.ask("/goog/cdp/execute", {"cmd": name, "params": params})

    def open(self, file):
        self.ask("/url", {"url": file.resolve().as_uri()})

    def run(self, script, *args):
        """What a script in the page returns."""
        return self.ask("/execute/sync", {"script": script, "args": list(args)})

    def click(self, selector):
        element = self.ask("/element", {"using": "css selector", "value": selector})
        self.ask(f"/element/{next(iter(element.values()))}/click", {})

    def console(self):
        """Everything that the page's console was told."""
        return [entry["message"] for entry in self.ask("/se/log", {"type": "browser"})]

    def hover(self, selector, x, y):
        """Move the mouse to a place within an element, in pixels from its middle."""
        element = self.ask("/element", {"using": "css selector", "value": selector})
        move = {"type": "pointerMove", "duration": 0, "origin": element, "x": x, "y": y}
        self.ask("/actions", {"actions": [{"type": "pointer", "id": "mouse", "actions": [move]}]})

    def screenshot(self, file):
        """The whole page."""
        shot = self.command("Page.captureScreenshot", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(shot["data"]))
