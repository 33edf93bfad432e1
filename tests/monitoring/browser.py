"""The dashboard in the system's Chromium.

`python tests/monitoring/browser.py` writes the pictures of docs/images from the data folder.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO

import httpx
from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from nextbuy.network import free_port
from nextbuy.settings import PROJECT

PAGES = {
    "today": "Today",
    "quality": "Data quality",
    "drift": "Drift",
    "model": "Model",
    "features": "Features",
    "try": "Try it",
}
"""Path -> title."""
PATIENCE = 120
"""Seconds that a page may take on a busy machine."""


def browser() -> str | None:
    """The system's Chromium, by whichever name."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next(filter(None, map(shutil.which, names)), None)


def missing() -> str | None:
    """What is not installed, with the command that does."""
    if browser() is None or shutil.which("chromedriver") is None:
        return "no chromium and chromedriver: apt-get install chromium chromium-driver"
    return None


@contextmanager
def dashboard(env: Mapping[str, str]) -> Iterator[str]:
    """A running dashboard; its address."""
    port = free_port()
    command = [sys.executable, "-m", "streamlit", "run", "monitoring/dashboard/app.py"]
    process = subprocess.Popen(
        [*command, f"--server.port={port}"],
        cwd=PROJECT,
        env={**os.environ, **env},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + PATIENCE
        while True:
            try:
                httpx.get(f"{url}/_stcore/health").raise_for_status()
                break
            except httpx.HTTPError:
                assert process.poll() is None, "the dashboard ended"
                assert time.monotonic() < until, "the dashboard does not answer"
                time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait()


@contextmanager
def chromium(
    is_dark: bool = False, height: int = 1300, more: Sequence[str] = ()
) -> Iterator[webdriver.Chrome]:
    """A headless browser of a laptop's width; `more` are arguments of Chromium's."""
    options = Options()
    options.binary_location = str(browser())
    for argument in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        f"--window-size=1440,{height}", "--force-device-scale-factor=1", *more,
    ):  # fmt: skip
        options.add_argument(argument)
    # With both paths given, Selenium looks for nothing on the network.
    driver = webdriver.Chrome(options, Service(str(shutil.which("chromedriver"))))
    try:
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        yield driver
    finally:
        driver.quit()


def opened(driver: webdriver.Chrome, url: str, path: str) -> str:
    """Open a page, wait until it is drawn, and give its text.

    Raises:
        AssertionError: the page shows an exception.
    """
    driver.get(f"{url}/{path}" if path != "today" else url)

    def is_drawn(page: webdriver.Chrome) -> bool:
        titles = [h.text for h in page.find_elements(By.TAG_NAME, "h1")]
        app = page.find_elements(By.CSS_SELECTOR, "[data-testid=stApp]")
        state = app[0].get_attribute("data-test-script-state") if app else None
        return PAGES[path] in titles and state == "notRunning"

    WebDriverWait(driver, PATIENCE, ignored_exceptions=[Exception]).until(is_drawn)
    trouble = driver.find_elements(By.CSS_SELECTOR, "[data-testid=stException]")
    assert not trouble, trouble[0].text
    return str(driver.find_element(By.TAG_NAME, "body").text)


def choose_shopper(driver: webdriver.Chrome) -> None:
    """On the page Try it, take the first shopper of the list."""
    box = driver.find_element(By.CSS_SELECTOR, "[data-testid=stSelectbox] input")
    box.click()
    box.send_keys(Keys.ARROW_DOWN, Keys.ENTER)


def main() -> None:
    """Take the pictures, light and dark; NEXTBUY_SERVICE_URL names a running service."""
    folder = PROJECT / "docs" / "images"
    folder.mkdir(parents=True, exist_ok=True)
    with dashboard({}) as url:
        for scheme in ("light", "dark"):
            with chromium(scheme == "dark") as driver:
                for path in sys.argv[1:] or PAGES:
                    opened(driver, url, path)
                    if path == "try":
                        choose_shopper(driver)
                    time.sleep(5)  # charts are drawn after the page says it is done
                    picture = Image.open(BytesIO(driver.get_screenshot_as_png()))
                    file = folder / f"{path}-{scheme}.png"
                    picture.convert("RGB").quantize(64).save(file, optimize=True)
                    print(file, flush=True)


if __name__ == "__main__":
    main()
