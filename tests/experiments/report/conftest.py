"""A finished small study with everything that a page shows, and a browser that looks at it."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adg.artifacts.artifact import Artifact, Node
from adg.artifacts.store import Store
from adg.errors import NotRunnable
from adg.pools import records
from experiments.cells import report_folder
from experiments.report import sweep

CHROMIUM = next((path for path in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if path), None)


class Browser:
    """A headless Chromium, spoken to through two pipes in the DevTools protocol."""

    def __init__(self, profile: Path) -> None:
        assert CHROMIUM is not None
        theirs, self._out = os.pipe()
        self._in, answers = os.pipe()
        switches = ["--headless=new", "--disable-gpu", "--no-first-run", f"--user-data-dir={profile}", "--mute-audio"]
        switches += ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium has none for root
        command = [CHROMIUM, *switches, "--remote-debugging-pipe", "about:blank"]
        self.process = subprocess.Popen(
            ["bash", "-c", f'exec "$0" "$@" 3<&{theirs} 4>&{answers}', *command],
            pass_fds=(theirs, answers),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs)
        os.close(answers)
        self._reader = os.fdopen(self._in, "rb")
        self._buffer, self._last, self.session = b"", 0, ""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.call("Page.enable")
        self.call("Emulation.setScrollbarsHidden", hidden=True)  # so that a page is as wide as the screen

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._last += 1
        message: dict[str, Any] = {"id": self._last, "method": method, "params": parameters}
        message |= {"sessionId": self.session} if self.session else {}
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while (answer := self._read()).get("id") != self._last:
            pass
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            piece = self._reader.read1(1 << 20)
            assert piece, "the browser has ended"
            self._buffer += piece
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def open(self, page: Path, width: int, dark: bool = False, script: bool = True) -> None:
        """Show a page as wide as a screen of so many pixels, and wait until it is there."""
        self.call("Emulation.setScriptExecutionDisabled", value=not script)
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=page.as_uri())
        self._loaded()

    def follow(self, expression: str) -> None:
        """Do what leads to another page, and wait until that is there."""
        self.value(expression)
        self._loaded()

    def _loaded(self) -> None:
        while self._read().get("method") != "Page.loadEventFired":
            pass

    def value(self, expression: str) -> Any:
        """What a piece of script says of the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def picture(self, path: Path) -> bytes:
        """The whole page as a PNG, which is written to ``path``."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True, clip=self._size())
        path.write_bytes(base64.b64decode(shot["data"]))
        return path.read_bytes()

    def printed(self, path: Path) -> bytes:
        """The page as it is printed, which is written to ``path``."""
        path.write_bytes(base64.b64decode(self.call("Page.printToPDF", preferCSSPageSize=True)["data"]))
        return path.read_bytes()

    def _size(self) -> dict[str, Any]:
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        return {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], 16_000), "scale": 1}

    def close(self) -> None:
        os.close(self._out)
        self.process.terminate()
        self.process.wait(timeout=20)
        self._reader.close()


SELECTORS = ("untrained", "random", "longest", "adg")
POOLS = ("mini_general", "mini_cot")
TASKS = ("bbh", "gsm8k", "mmlu", "truthfulqa_mc2", "mbpp", "humaneval")
REASON = "needs what nobody has: a < b"


class Shown:
    """The report of a small study: cells without models, whose artifacts say what a page must show."""

    def __init__(self, study: Any) -> None:
        self.study, self.plain = study, study.store.runner
        study.store.runner = self._run

    def chosen(self, *overrides: str) -> list[Any]:
        """Cells of both pools, among them some that nothing has run yet."""
        named = f"selector={','.join((*SELECTORS, 'ifd'))}", f"pool={','.join(POOLS)}"
        return self.study.cells(*named, *overrides)

    def finish(self, chosen: list[Any], items: int = 20, prompt: str = "Q") -> None:
        """Every cell but IFD's, whose scores cannot be made."""
        for place, cell in enumerate(chosen):
            name = cell.config.selector["name"]
            if name == "ifd":
                with suppress(NotRunnable):
                    self.study.store.ensure(cell.nodes["scores"])
                continue
            right = SELECTORS.index(name) + 6
            part = [float((i * 7 + 3 * place) % items < right * items / 20) for i in range(items)]
            self.study.finish(cell, {task: {task: part} for task in TASKS}, prompt=prompt)
            if "heldout" in cell.nodes:
                self.study.hold_out(cell, [1.0 - right / 50 + i / 100 for i in range(8)])

    def write(self, chosen: list[Any]) -> Path:
        """The report's folder."""
        sweep.write(chosen, Store(self.study.runs))
        return report_folder(chosen, self.study.store)[0]

    def _run(self, node: Node, folder: Path, inputs: Mapping[str, Artifact], exec_: Any) -> dict[str, Any]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        stage = node.stage.name
        if stage == "scores" and "ifd" in node.label:
            raise NotRunnable(REASON)
        if stage == "adapter":
            lines = [{"step": step, "loss": 3 / step, "learning_rate": 1e-3 * (7 - step)} for step in range(1, 7)]
            (folder / "training.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        elif stage == "answers":
            keys = [record.key for record in records.load(inputs["pool"])]
            rows = [(key, sample, "x" * (20 + 9 * place)) for place, key in enumerate(keys) for sample in range(2)]
            columns = dict(zip(("id", "sample", "text"), map(list, zip(*rows, strict=True)), strict=True))
            pq.write_table(pa.table(columns), folder / "answers.parquet")
        elif stage == "scores" and "grams" in inputs:
            keys = [record.key for record in records.load(inputs["pool"])]
            d, i = np.linspace(0.2, 0.6, len(keys)), np.linspace(0.7, 0.1, len(keys)) ** 2
            parts = {"id": keys, "score": 0.6 * d + 0.4 * i, "dispersion": d, "anisotropy": i}
            pq.write_table(pa.table({**parts, "invalid": [""] * len(keys)}), folder / "scores.parquet")
        elif stage == "subset":
            records.save_rows(folder / "records.parquet", records.load(inputs["pool"])[len(node.label) % 7 :][:8])
        else:
            return dict(self.plain(node, folder, inputs, exec_))
        return {"rows_in": 24, "rows_out": 8, "failed": [], "shortfall": 0}


@pytest.fixture
def shown_study(study: Any) -> Shown:
    return Shown(study)


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory, new_study: Any) -> tuple[Path, list[Any]]:
    """The folder of a finished report, which tests only read, and its cells."""
    shown = Shown(new_study(tmp_path_factory.mktemp("shown") / "runs"))
    chosen = shown.chosen()
    shown.finish(chosen)
    return shown.write(chosen), chosen


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this system (Debian: apt install chromium)")
    found = Browser(tmp_path_factory.mktemp("chromium"))
    yield found
    found.close()
