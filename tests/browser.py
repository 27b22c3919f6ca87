"""A browser without a window for tests: that of `benchmarks/report.py`, and what is asked of it."""

import importlib
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

import pytest

sys.path.append(str(pathlib.Path(__file__).parents[1] / "benchmarks"))  # which has names like data
report = importlib.import_module("report")
WIDE, NARROW = 1200, 360  # pixels


def opened() -> Iterator[Any]:
    """For a fixture: a browser, or a skipped test."""
    driver = report.browser()
    if driver is None:
        pytest.skip("no browser: apt-get install chromium chromium-driver; pip install selenium")
    yield driver
    driver.quit()


def look(
    driver: Any,
    address: pathlib.Path | str,
    *,
    width: int = WIDE,
    dark: bool = False,
    scripts: bool = True,
) -> None:
    """Opens a page as on a screen of so many pixels, in one of the two schemes."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": [scheme]})
    driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": not scripts})
    driver.get(address if isinstance(address, str) else address.resolve().as_uri())


def messages(driver: Any) -> list[str]:
    """What came to the console since one last looked, of any level."""
    return [entry["message"] for entry in driver.get_log("browser")]


def overflow(driver: Any) -> int:
    """Pixels by which the page is wider than the window."""
    script = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    wider: int = driver.execute_script(script)
    return wider


# The least ratio of luminances of a text and what it stands on, and that text; WCAG 2.2, 1.4.3.
CONTRAST = r"""
const channels = (color) => color.match(/[\d.]+/g).map(Number);
const luminance = ([r, g, b]) => {
  const [x, y, z] = [r, g, b].map((c) => c / 255)
    .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  return 0.2126 * x + 0.7152 * y + 0.0722 * z;
};
const behind = (element) => {
  for (let at = element; at; at = at.parentElement) {
    const own = channels(getComputedStyle(at).backgroundColor);
    if (own.length === 3 || own[3] === 1) return own;
  }
  return [255, 255, 255];
};
let least = [99, ""];
const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walk.nextNode()) {
  const element = walk.currentNode.parentElement, text = walk.currentNode.textContent.trim();
  if (!text || !element.checkVisibility() || element.matches("script, style, title")) continue;
  const style = getComputedStyle(element);
  const ink = luminance(channels(element.closest("svg") ? style.fill : style.color));
  const paper = luminance(behind(element));
  const ratio = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
  if (ratio < least[0]) least = [ratio, text];
}
return least;
"""


def contrast(driver: Any) -> tuple[float, str]:
    """The least contrast of a visible text, and that text."""
    ratio, text = driver.execute_script(CONTRAST)
    return ratio, text
