"""The report in a real browser: what its scripts do, on what screens, and for what files."""

import base64
import json
import math
import pathlib
import re
import shlex
import subprocess
import zlib
from collections.abc import Iterator
from typing import Any

import browser
import pytest
import test_report
from browser import look

from supernet_jax.cli import main
from supernet_jax.elastic import notation
from supernet_jax.experiment import config, read_archs
from supernet_jax.reporting import report

pytestmark = pytest.mark.slow  # which tests are that need a browser
NAME = """it's "a" $(run) & <b>`x`</b> with a very long name of its own: """ + "long" * 12
COSTS = ("macs", "parameters", "latency")
IMAGES, TEXT = "ofa_small", "decoder"
SET = """
const [places] = arguments, seen = [];
for (const row of places) {
  row.forEach((value, i) => {
    const typed = typeof value === "string";
    const one = document.getElementById(`${typed ? "most" : "range"}-${i}`);
    one.value = value;
    one.dispatchEvent(new Event(typed ? "change" : "input"));
  });
  const text = (id) => document.getElementById(id).textContent;
  seen.push({
    limits: row.map((_, i) => document.getElementById(`most-${i}`).value),
    command: document.getElementById("take-out").hidden ? "" : text("command"),
    picked: text("picked"),
    marks: document.querySelectorAll("#front-chart .pick").length,
    bars: document.querySelectorAll("#decisions .cell").length,
  });
}
return seen;
"""


SCROLL = """
const [thing, done] = arguments; // scrolling hides hints, in the next frame
thing.scrollIntoView({ block: "center" });
requestAnimationFrame(() => requestAnimationFrame(done));
"""
OVERLAP = """
const wrong = [], meet = (a, b) =>
  a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
for (const name of document.querySelectorAll("svg[data-y] text[transform]")) {
  for (const tick of name.parentNode.querySelectorAll("text.end")) {
    const [one, other] = [name, tick].map((text) => text.getBoundingClientRect());
    if (meet(one, other)) wrong.push([name.textContent, tick.textContent]);
  }
}
return wrong;
"""  # names of axes, and the numbers beside them
CLIPBOARD = """
const [works] = arguments;
const write = (text) => works ? Promise.resolve(window.copied = text) : Promise.reject("no");
const value = works === null ? undefined : { writeText: write };
Object.defineProperty(navigator, "clipboard", { value, configurable: true });
"""
pytest.importorskip("selenium", reason="no browser without it: pip install selenium")
from selenium.webdriver import ActionChains, Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    yield from browser.opened()


@pytest.fixture(scope="module")
def runs(driver: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, pathlib.Path]:
    """Run folders by their spaces, with reports in them."""
    made = {}
    for name in (IMAGES, TEXT):
        folder = tmp_path_factory.mktemp(name) / NAME
        browser.report.write_run(folder, config.SPACES[name], count=600)
        seconds = [0, 1, 1.5, 2.2, 2.7]  # so that numbers beside an axis are long
        rows = [{"step": 10 * i, "time": 1e9 + one} for i, one in enumerate(seconds)]
        (folder / "times.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        report.report(folder)
        made[name] = folder
    return made


@pytest.fixture(autouse=True)
def silent(driver: Any) -> Iterator[None]:
    """Nothing ever comes to the console."""
    browser.messages(driver)
    yield
    assert browser.messages(driver) == []


def page(folder: pathlib.Path) -> pathlib.Path:
    return folder / "report.html"


def known(folder: pathlib.Path) -> tuple[list[dict[str, Any]], float]:
    """All subnets of a run with their costs, and the sign of what is better."""
    found = {}
    search = json.loads((folder / "search.json").read_text())
    rows = [json.loads(row) for row in (folder / "evaluations.jsonl").read_text().splitlines()]
    for one in [*rows, *search["front"]]:
        found[json.dumps(one["arch"])] = one
    return list(found.values()), 1 if search["metric"]["higher_is_better"] else -1


def best(folder: pathlib.Path, limits: list[float]) -> list[Any]:
    """The arch of the best subnet within limits, found by looking at all of them."""
    subnets, sign = known(folder)
    metric = json.loads((folder / "search.json").read_text())["metric"]["name"]
    price = lambda s: [s.get(name, math.inf) for name in COSTS]  # noqa: E731
    inside = [s for s in subnets if all(c <= m for c, m in zip(price(s), limits, strict=True))]
    inside.sort(key=lambda s: (-sign * s[metric], *price(s)))
    equal = [s for s in inside if price(s) == price(inside[0])]
    return [s["arch"] for s in equal if s[metric] == inside[0][metric]]


def number(text: str) -> float:
    """A number as it stands in a field."""
    return float(text.replace(",", "")) if text else math.inf


def arch_of(command: str) -> Any:
    words = shlex.split(command)
    return json.loads(words[words.index("--arch") + 1])


@pytest.mark.parametrize("name", [IMAGES, TEXT])
def test_sliders_pick_what_python_picks(driver: Any, runs: dict[str, Any], name: str) -> None:
    folder = runs[name]
    look(driver, page(folder))
    rng = browser.report.np.random.default_rng(0)
    places = rng.integers(0, 201, (60, 3)).tolist()
    places += [[200, 200, 200], [0, 200, 200], [200, 0, 200], [200, 200, 0]]
    typed = [["3 M", "", ""], ["2,000,000", "1e5", ""], ["", "40k", "9.5"], [".5", "", ""]]
    seen = driver.execute_script(SET, places + typed)
    picked = set()
    for one in seen:
        limits = [number(text) for text in one["limits"]]
        wanted = best(folder, limits)
        assert bool(one["command"]) == bool(wanted) == bool(one["marks"]), limits
        if wanted:
            assert arch_of(one["command"]) in wanted, limits
            assert one["bars"] > 0
            picked.add(one["command"])
        else:
            assert "No known network is within all of these." in one["picked"]
    assert len(picked) > 5 and not all(one["command"] for one in seen)
    assert [one["limits"] for one in seen[-len(typed) :]] == [
        *(["3,000,000", "", ""], ["2,000,000", "100,000", ""], ["", "40,000", "9.5"]),
        ["0.5", "", ""],
    ]
    assert "known of" in seen[-2]["picked"]  # latency, which few subnets have


def test_keys_move_sliders(driver: Any, runs: dict[str, pathlib.Path]) -> None:
    look(driver, page(runs[IMAGES]))
    slider, field, code = (driver.find_element("id", i) for i in ("range-0", "most-0", "command"))
    label = driver.find_element("css selector", "label[for=range-0]")
    assert (label.text, field.get_attribute("value")) == ("MACs", "")
    whole = code.text
    seen = []
    for key in (Keys.ARROW_LEFT, Keys.ARROW_LEFT, Keys.HOME, Keys.ARROW_RIGHT, Keys.END):
        slider.send_keys(key)
        seen.append(number(field.get_attribute("value")))
        spoken = slider.get_attribute("aria-valuetext")
        assert field.get_attribute("value") in spoken or spoken == "no bound"
    first, second, least, more, none = seen
    assert least < more < second < first < none == math.inf
    assert code.text == whole
    slider.send_keys(Keys.TAB)  # the next thing that one can set is the next number
    assert driver.switch_to.active_element.get_attribute("id") == "most-1"
    field.send_keys("2 million", Keys.TAB)
    assert field.get_attribute("aria-invalid") == "true" and code.text == whole
    field.clear()
    field.send_keys("9M", Keys.ENTER)
    assert field.get_attribute("value") == "9,000,000" and code.text != whole
    assert field.get_attribute("aria-invalid") is None
    assert abs(int(slider.get_attribute("value")) - 100) < 100


def test_the_copied_line_takes_that_network_out(
    driver: Any, runs: dict[str, pathlib.Path], tmp_path: pathlib.Path
) -> None:
    folder = runs[IMAGES]
    look(driver, page(folder))
    (one,) = driver.execute_script(SET, [[120, 200, 200]])
    line, button = one["command"], driver.find_element("id", "copy")
    (arch, *_) = best(folder, [number(text) for text in one["limits"]])
    shell = "supernet() { printf '%s\\0' \"$@\"; }\n" + line
    words = subprocess.run(["sh", "-c", shell], check=True, capture_output=True).stdout.decode()
    name, *rest = words.split("\0")[:-1]
    assert (name, rest) == ("extract", shlex.split(line)[2:])
    parsed = main._parsed(main.module("extract"), rest, "extract")
    assert parsed.run == folder and parsed.out.parent == pathlib.Path("networks")
    space = config.SPACES[IMAGES].build()
    assert [
        notation.to_notation(space.menu, a) for a in read_archs.read_archs(space, parsed.arch)
    ] == [arch]

    driver.execute_script(CLIPBOARD, True)
    button.click()
    WebDriverWait(driver, 5).until(lambda _: button.text == "Copied")
    assert driver.execute_script("return window.copied") == line
    for clipboard in (False, None):  # one that refuses, and none at all
        driver.execute_script(CLIPBOARD, clipboard)
        driver.execute_script("getSelection().removeAllRanges()")
        button.click()
        WebDriverWait(driver, 5).until(lambda _: button.text == "Selected")
        assert driver.execute_script("return getSelection().toString()") == line


def test_hints_appear(driver: Any, runs: dict[str, pathlib.Path]) -> None:
    look(driver, page(runs[IMAGES]))
    tip = driver.find_element("id", "tip")
    assert not tip.is_displayed()
    for where, said in (("#front-chart .dot.front", " MACs, "), ("#decisions .cell", "largest")):
        thing = driver.find_elements("css selector", where)[-1]
        driver.execute_async_script(SCROLL, thing)
        ActionChains(driver).move_to_element(thing).perform()
        assert tip.is_displayed() and said in tip.text
        box = tip.rect
        assert box["x"] >= 0 and box["x"] + box["width"] <= browser.WIDE


def test_tables_sort(driver: Any, runs: dict[str, pathlib.Path]) -> None:
    look(driver, page(runs[IMAGES]))
    heads = driver.find_elements("css selector", "table th")
    place = [head.text for head in heads].index("MACs")
    button = heads[place].find_element("tag name", "button")
    rows = "[...document.querySelectorAll('tbody tr')]"
    column = f"return {rows}.map((row) => row.cells[arguments[0]].dataset.v)"
    for key, order in ((Keys.ENTER, 1), (Keys.SPACE, -1)):
        button.send_keys(key)
        values = [float(v) for v in driver.execute_script(column, place)]
        assert len(values) > 5 and values == sorted(values, key=lambda v: order * v)
    assert heads[place].get_attribute("aria-sort") == "descending"


@pytest.mark.parametrize("width", [browser.NARROW, 700, browser.WIDE])
def test_screens(driver: Any, runs: dict[str, pathlib.Path], width: int) -> None:
    for folder in runs.values():
        look(driver, page(folder), width=width)
        assert browser.overflow(driver) == 0
        assert driver.execute_script(OVERLAP) == []
        driver.execute_script("for (const d of document.querySelectorAll('details')) d.open = true")
        driver.execute_script(SET, [[3, 3, 3]])
        assert browser.overflow(driver) == 0


@pytest.mark.parametrize("dark", [False, True])
def test_texts_can_be_read(driver: Any, runs: dict[str, pathlib.Path], dark: bool) -> None:
    look(driver, page(runs[IMAGES]), dark=dark)
    paper = driver.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert paper == ("rgb(20, 23, 26)" if dark else "rgb(255, 255, 255)")
    ratio, text = browser.contrast(driver)
    assert ratio >= 4.5, text


def curves(pdf: bytes) -> int:
    """Curves that the pages of a PDF file draw."""
    streams = re.findall(rb"/FlateDecode[^>]*>>\s*stream\r?\n(.*?)endstream", pdf, re.DOTALL)
    count = 0
    for stream in streams:
        content = zlib.decompressobj().decompress(stream)
        count += len(re.findall(rb"(?:[\d.-]+ ){6}c\n", content))
    return count


def test_print(driver: Any, runs: dict[str, pathlib.Path]) -> None:
    look(driver, page(runs[IMAGES]), dark=True)
    with_charts = curves(base64.b64decode(driver.print_page()))
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    for where, displayed in (
        *((".budgets", False), ("#copy", False), ("#picked", True), ("#take-out", True)),
        *(("#front-chart", True), ("#decisions", True)),
    ):
        assert driver.find_element("css selector", where).is_displayed() == displayed, where
    ratio, text = browser.contrast(driver)
    assert ratio >= 4.5, text
    points = len(driver.find_elements("css selector", "#front-chart path.dot"))
    driver.execute_script("document.querySelectorAll('svg').forEach((one) => one.remove())")
    without = curves(base64.b64decode(driver.print_page()))
    assert with_charts - without > 2 * points > 1000  # a circle has four


def test_without_scripts_all_can_be_read(driver: Any, runs: dict[str, pathlib.Path]) -> None:
    look(driver, page(runs[IMAGES]), scripts=False)
    assert not driver.find_element("id", "picker").is_displayed()
    chart = driver.find_element("css selector", "#front-chart svg[data-x]")
    assert chart.is_displayed() and chart.rect["width"] > 500
    assert driver.find_element("css selector", "td.arch").is_displayed()
    look(driver, page(runs[IMAGES]))


def test_hostile_names_do_nothing(driver: Any, tmp_path: pathlib.Path) -> None:
    """The files of a run in which every text is one that tries to end what it stands in."""
    evil = "</script><script>window.evil = 1</script><img src=x onerror='window.evil = 2'>"
    folder = test_report.make(
        tmp_path / "<img src=x onerror='window.evil = 3'>", test_report.files(evil)
    )
    report.report(folder)
    look(driver, page(folder))
    assert driver.execute_script("return window.evil ?? 0") == 0
    assert driver.find_elements("css selector", "img") == []
    assert len(driver.find_elements("css selector", "script")) == 2  # values, and what reads them
    assert driver.find_element("id", "picked").text.startswith("50.00%")
    command = driver.find_element("id", "command").text
    assert shlex.split(command)[2] == str(folder)
    assert arch_of(command) == {"width": 4, evil: [evil]}
    assert "the space of the run is not known" in driver.find_element("id", "decisions").text
    assert browser.overflow(driver) == 0


@pytest.mark.parametrize("steps", [0, 30])
def test_a_run_without_evaluations(driver: Any, tmp_path: pathlib.Path, steps: int) -> None:
    rows = "".join(test_report.line(step) + "\n" for step in range(1, steps + 1))
    contents = {"config.json": json.dumps(test_report.PLAIN), "metrics.jsonl": rows}
    report.report(test_report.make(tmp_path, contents))
    look(driver, page(tmp_path), width=browser.NARROW)
    assert "No subnet was evaluated yet" in driver.find_element("tag name", "body").text
    assert driver.find_elements("id", "picker") == [] and browser.overflow(driver) == 0
