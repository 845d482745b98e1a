"""A real browser without a window, driven over the DevTools protocol."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import shutil
import subprocess
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from tornado.websocket import WebSocketClientConnection, websocket_connect

CHROMIUM = shutil.which("chromium")


class Page:
    """One tab; remembers every request and every message that the page caused."""

    def __init__(self, socket: WebSocketClientConnection) -> None:
        self.requests: list[str] = []
        self.messages: list[str] = []
        self.loads = 0
        self._socket, self._number = socket, 0
        self._session: dict[str, str] = {}

    async def call(self, method: str, **parameters: Any) -> Any:
        """What a command answers."""
        self._number += 1
        number = self._number
        await self._socket.write_message(
            json.dumps({"id": number, "method": method, "params": parameters, **self._session})
        )
        while (answer := await self._receive()).get("id") != number:
            pass
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    async def _receive(self) -> Any:
        text = await self._socket.read_message()
        assert text is not None, "the browser is gone"
        message = json.loads(text)
        self._note(message)
        return message

    def _note(self, event: Any) -> None:
        self.loads += event.get("method") == "Page.loadEventFired"
        if event.get("method") == "Network.requestWillBeSent":
            self.requests.append(event["params"]["request"]["url"])
        if event.get("method") == "Log.entryAdded":
            self.messages.append(event["params"]["entry"]["text"])
        if event.get("method") == "Runtime.exceptionThrown":
            self.messages.append(json.dumps(event["params"]))

    async def start(self) -> None:
        """Opens the tab."""
        target = await self.call("Target.createTarget", url="about:blank")
        attached = await self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = {"sessionId": attached["sessionId"]}
        for domain in ("Page", "Network", "Log", "Runtime"):
            await self.call(f"{domain}.enable")

    async def end(self) -> None:
        """Ends the browser, with all the processes that it started."""
        self._session = {}
        await self.call("Browser.close")
        while await self._socket.read_message() is not None:  # until then the connection is not closed
            pass
        self._socket.close()

    async def open(self, path: Path, fragment: str = "") -> None:
        """Loads a file, and waits until its pictures are there."""
        for url in ("about:blank", f"{path.as_uri()}#{fragment}"):  # of another fragment alone nothing is loaded anew
            before = self.loads
            await self.call("Page.navigate", url=url)
            while self.loads == before:
                await self._receive()
        await self.evaluate("Promise.all([...document.images].map((image) => image.decode()))")

    async def evaluate(self, code: str) -> Any:
        """The value of an expression in the page, awaited where it is a promise."""
        answer = await self.call("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    async def box(self, selector: str) -> tuple[float, float, float, float]:
        """Left, top, width and height of an element in the window."""
        found = await self.evaluate(
            f"(({{x, y, width, height}}) => [x, y, width, height])"
            f"(document.querySelector({json.dumps(selector)}).getBoundingClientRect())"
        )
        return tuple(found)

    async def screenshot(self) -> npt.NDArray[np.uint8]:
        """The window: (row, col, 3)."""
        answer = await self.call("Page.captureScreenshot")
        with Image.open(io.BytesIO(base64.b64decode(answer["data"]))) as picture:
            return np.asarray(picture.convert("RGB"))


def browse(profile: Path, visit: Callable[[Page], Awaitable[None]], *, graphics: str = "--disable-gpu") -> None:
    """Runs `visit` in a fresh browser that keeps its things in `profile`; skips where there is none.

    `graphics` are flags: by default there is no WebGL.
    """
    if CHROMIUM is None:
        pytest.skip("no chromium: apt-get install chromium")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--hide-scrollbars", "--no-first-run", *graphics.split()]
    command += ["--window-size=1000,900", "--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            address = _address(profile / "DevToolsActivePort", process)
            asyncio.run(asyncio.wait_for(_session(address, visit), timeout=120))
            process.wait(timeout=20)
        finally:
            process.kill()


async def _session(address: str, visit: Callable[[Page], Awaitable[None]]) -> None:
    """One visit, after which the browser ends."""
    page = Page(await websocket_connect(address, max_message_size=1 << 26))
    try:
        await page.start()
        await visit(page)
    finally:
        await page.end()


def _address(file: Path, process: subprocess.Popen[bytes]) -> str:
    """Where it listens: it writes port and path when it does."""
    deadline = time.monotonic() + 60
    while not file.exists() or file.read_text().count("\n") < 1:
        assert process.poll() is None, "the browser ended at once"
        assert time.monotonic() < deadline, "the browser does not listen"
        time.sleep(0.05)
    port, path = file.read_text().split("\n")[:2]
    return f"ws://127.0.0.1:{port}{path}"
