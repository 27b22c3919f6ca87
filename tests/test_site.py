"""The site of the documents in a real browser: quiet, narrow enough, searched, and by itself."""

import functools
import http.server
import threading
from collections.abc import Iterator
from typing import Any

import browser
import pytest
from test_documents import ROOT, build, needs_mkdocs

pytestmark = [pytest.mark.slow, needs_mkdocs]
PAGES = (
    "",
    "report/",
    "design/",
    "performance/",
    "decisions/site/",
    "doors/sampler/",
    "changelog/",
)
RESOURCES = "return performance.getEntriesByType('resource').map((entry) => entry.name)"


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    yield from browser.opened()


@pytest.fixture(scope="module")
def site(driver: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the built site."""
    folder = tmp_path_factory.mktemp("site")
    build(ROOT, folder)
    made = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), made) as server:
        server.daemon_threads = False  # whose end is waited for
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("page", PAGES)
def test_pages(driver: Any, site: str, page: str) -> None:
    browser.messages(driver)
    for width in (browser.NARROW, browser.WIDE):
        for dark in (False, True):
            browser.look(driver, f"{site}{page}", width=width, dark=dark)
            assert browser.overflow(driver) == 0
            loaded = driver.execute_script(RESOURCES)
            assert loaded and all(name.startswith(site) for name in loaded)
    assert browser.messages(driver) == []


def test_search(driver: Any, site: str) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    browser.messages(driver)
    browser.look(driver, site)
    driver.find_element("css selector", "input.md-search__input").send_keys("perplexity")
    found = "a.md-search-result__link"
    link = WebDriverWait(driver, 60).until(lambda _: driver.find_elements("css selector", found))[0]
    driver.get(link.get_attribute("href"))
    assert "perplexity" in driver.find_element("css selector", "article").text.lower()
    assert browser.messages(driver) == []
