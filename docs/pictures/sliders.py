"""Takes `sliders.png`: the front of a run in its report, with the sliders beside it.

python -m supernet_jax quickstart
python docs/pictures/sliders.py runs/quickstart

It needs what `benchmarks/report.py` needs: Chromium and Selenium.
"""

import base64
import io
import pathlib
import sys
import tempfile

import PIL.Image

sys.path.append(str(pathlib.Path(__file__).parents[2] / "benchmarks"))
import report as benchmark

from supernet_jax.reporting import report

SIZE = {"width": 1160, "height": 900, "deviceScaleFactor": 1, "mobile": False}
SET = """const [field] = arguments;
field.value = "170,000";
field.dispatchEvent(new Event("change"));
const ends = ["#front-chart", "#decisions"].map((one) =>
  document.querySelector(one).getBoundingClientRect());
return [ends[0].top + scrollY, ends[1].bottom + scrollY];"""
MARGIN = 14  # pixels above


def main(run: str) -> None:
    """Opens the report of a run, sets a budget, and keeps what there is to see."""
    driver = benchmark.browser()
    if driver is None:
        sys.exit("no Chromium or no Selenium")
    with tempfile.TemporaryDirectory() as folder:
        path = report.report(run, pathlib.Path(folder) / "report.html")
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", SIZE)
        driver.get(path.as_uri())
        top, bottom = driver.execute_script(SET, driver.find_element("id", "most-0"))
        place = {"x": 0, "y": top - MARGIN, "width": SIZE["width"], "scale": 1}
        place["height"] = bottom - top + MARGIN
        shot = {"clip": place, "captureBeyondViewport": True}
        taken = driver.execute_cdp_cmd("Page.captureScreenshot", shot)
    driver.quit()
    picture = PIL.Image.open(io.BytesIO(base64.b64decode(taken["data"])))
    path = pathlib.Path(__file__).with_name("sliders.png")
    picture.convert("RGB").quantize(64).save(path, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
