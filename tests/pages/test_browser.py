"""MLflow's UI and the report in a browser: what people look at is really there."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import synthaug
from ports import free_port, wait_for
from shapes import Noise, tiny
from synthaug.classify.mixing import LocalRandomReplace
from synthaug.experiment import Sweep
from synthaug.pages.report import write_report
from synthaug.runtime.store import Store

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
WAIT_MS = 120_000  # the machine may be busy
SWEEP = Sweep(
    base=tiny(steps=4),
    arms={"plain": {}, "noise": {"method": Noise(), "utilize": LocalRandomReplace(p=0.5)}},
    baseline="plain",
    space={"method.amount": [20, 150], "k": [1, 2]},
    seeds=2,
)
# MLflow's UI asks for it, and MLflow's server without accounts has none; and what browsers say of charts that grow
THEIR_OWN = ("/mlflow/users/current", "ResizeObserver loop")


class Window:
    """A page of the browser, and what it complained of."""

    def __init__(self, browser: Any, **how: Any) -> None:
        self.page = browser.new_page(**how)
        self.page.set_default_timeout(WAIT_MS)
        self.errors: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", self._heard)

    def __enter__(self) -> Any:
        return self.page

    def __exit__(self, kind: object, *rest: object) -> None:
        self.page.close()
        assert kind is not None or self.errors == []

    def _heard(self, message: Any) -> None:
        said = f"{message.text} {message.location}"
        if message.type == "error" and not any(own in said for own in THEIR_OWN):
            self.errors.append(said)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        # no sandbox: it asks for rights that containers do not give
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("ui")
    synthaug.run(SWEEP, home=home, workers=0, name="file:sweep")
    return home


@pytest.fixture(scope="module")
def address(ran: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where `synthaug ui` says that the runs are."""
    port, log = free_port(), tmp_path_factory.mktemp("log") / "server"
    command = [sys.executable, "-m", "synthaug.cli", "ui", "--home", str(ran), "--port", str(port)]
    with log.open("w") as out:
        server = subprocess.Popen(command, stdout=out, stderr=out, text=True)
    try:
        wait_for(port, server, log)
        said = next(line for line in log.read_text().splitlines() if "http://" in line)
        yield said.partition("http://")[2].split()[0]
    finally:
        server.terminate()
        server.wait()


def test_the_report_has_its_figures_in_the_light_in_the_dark_and_on_a_phone(
    ran: Path, browser: Any, tmp_path: Path
) -> None:
    report = write_report(Store(ran), {"file:sweep": SWEEP}, tmp_path / "page.html")
    for how in (
        {"viewport": {"width": 1400, "height": 900}, "color_scheme": "light"},
        {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark"},
    ):
        with Window(browser, **how) as page:
            page.goto(report.as_uri())
            assert "Too early to tell: 2 seeds of each" in page.inner_text(".answer")
            # accuracy against cost, the heat map, curves while training, gains by class
            drawn = page.eval_on_selector_all("svg", "all => all.map(one => one.getBoundingClientRect().width)")
            assert len(drawn) == 4 and all(100 < width <= how["viewport"]["width"] for width in drawn)
            shown = page.eval_on_selector_all("img", "all => all.map(one => one.naturalWidth)")
            assert len(shown) == 2 and all(shown), "a gallery of each set of images"
            wide = page.evaluate("document.documentElement.scrollWidth")
            assert wide <= how["viewport"]["width"], "tables scroll in themselves, the page does not"
            paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (paper == "rgb(255, 255, 255)") == (how["color_scheme"] == "light")
            assert page.locator("td").first.bounding_box() is not None


def test_the_ui_opens_on_the_points_of_the_sweep_best_first(address: str, browser: Any) -> None:
    with Window(browser, viewport={"width": 2000, "height": 1000}) as page:
        page.goto(f"http://{address}")
        page.wait_for_selector("[role=row] >> text=plain")
        names = page.locator(".ag-pinned-left-cols-container [role=row], [role=row]:has(a[href*='/runs/'])")
        assert names.count() >= 5, "plain training, and noise of two amounts and two numbers"
        head = page.locator("[role=columnheader]").all_inner_texts()
        for column in ("test/top1", "test/top1/low", "cost/device_s", "seeds", "method.amount", "k"):
            assert any(text.strip() == column for text in head), f"{column} of {head}"


def test_the_ui_draws_parallel_coordinates_and_shows_images(address: str, browser: Any) -> None:
    with Window(browser, viewport={"width": 1600, "height": 1000}) as page:
        page.goto(f"http://{address}&compareRunsMode=CHART")
        page.wait_for_selector("text=Parallel Coordinates")
        for axis in ("method.amount", "cost/device_s", "test/top1"):
            page.locator(f"svg >> text={axis}").first.wait_for()
        page.locator("text=gallery").first.scroll_into_view_if_needed()
        pictures = page.locator("img[src*='get-artifact']")
        pictures.first.wait_for()
        page.wait_for_function("[...document.querySelectorAll('img')].every(one => one.naturalWidth > 0)")
        assert pictures.count() == 4, "one of each point with images"
