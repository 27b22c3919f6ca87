"""A report that is served while its run goes on: to whom, what, and how it follows and ends."""

import contextlib
import http.client
import json
import pathlib
import re
import signal
import socket
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any, NamedTuple

import browser
import processes
import pytest
import test_report
from tiny_run import supernet

from supernet_jax.errors import UserError
from supernet_jax.reporting import live

SECONDS = 180  # until a test gives up
STALE = "return document.querySelector('.stale').textContent"  # a script


class Served(NamedTuple):
    """A report that is served from this process."""

    folder: pathlib.Path
    port: int

    def ask(self, path: str = "/", method: str = "GET", **headers: str) -> Any:
        """An answer, and what it holds."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)
        try:
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            return answer, answer.read().decode()
        finally:
            connection.close()


@pytest.fixture
def served(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setattr(live, "SECONDS", 0.0)
    monkeypatch.setattr(live, "SHARE", 1e9)
    folder = test_report.make(tmp_path / "run", test_report.files("words"))
    with live._server(0, live.Source(folder, None, "")) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield Served(folder, server.server_address[1])
        server.shutdown()
        thread.join()


def add(folder: pathlib.Path, step: int) -> None:
    with (folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write(test_report.line(step) + "\n")


def test_only_the_report_is_served(served: Served) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in served.folder.rglob("*")}
    answer, text = served.ask()
    assert answer.status == 200 and test_report.Parsed(text).text.count("What is missing") == 1
    head, nothing = served.ask(method="HEAD")
    assert (head.status, nothing, head.headers["ETag"]) == (200, "", answer.headers["ETag"])
    assert int(head.headers["Content-Length"]) == len(text.encode())
    for path in ("/config.json", "/../run/config.json", "/?", "/favicon.ico", "*"):
        answer, text = served.ask(path)
        assert (answer.status, "there is nothing else" in text) == (404, True), path
    assert served.ask(method="POST")[0].status == 501
    assert before == {path.name: path.stat().st_mtime_ns for path in served.folder.rglob("*")}


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "127.0.0.1:1", "", "localhost"])
def test_other_hosts_are_refused(served: Served, host: str) -> None:
    """As a name that leads here would be called by: that of who asks, not ours."""
    for name in (host, f"{host}:{served.port}" if "." in host and "0" not in host else host):
        answer, text = served.ask(Host=name)
        assert answer.status == 403 and "words" not in text
    assert served.ask(Host=f"localhost:{served.port}")[0].status == 200


def test_it_follows_the_run(served: Served) -> None:
    def name() -> str:
        return served.ask(method="HEAD")[0].headers["ETag"]

    first = name()
    assert name() == first and "step 30 of 40" in served.ask()[1]
    add(served.folder, 35)
    second = name()
    assert f'<meta name="state" content={second}>' in served.ask()[1]
    assert second != first and "step 35 of 40" in served.ask()[1]
    (served.folder / "report.html").write_text("x")  # of `supernet report` beside it
    (served.folder / "writer.lock").write_text("x")
    assert name() == second
    (served.folder / "config.json").rename(served.folder / "moved.json")
    assert name() == second and "step 35 of 40" in served.ask()[1]
    fault = served.ask(method="HEAD")[0].headers[live.FAULT]
    assert str(served.folder) in urllib.parse.unquote(fault)
    (served.folder / "moved.json").rename(served.folder / "config.json")
    assert served.ask(method="HEAD")[0].headers[live.FAULT] is None


def test_a_page_takes_a_part_of_the_time(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page that took long to make is not soon made again."""
    clock = [0.0]
    for name in ("monotonic", "process_time"):
        monkeypatch.setattr(live.time, name, lambda: clock[0])

    def slowly(*_: Any, **__: Any) -> str:
        clock[0] += 2.0
        return f"at {clock[0]}"

    monkeypatch.setattr(live.page, "text", slowly)
    source = live.Source(test_report.make(tmp_path, {"a": "1"}), None, "")
    seen = []
    for seconds in (live.SECONDS - 1, 1, 2 / live.SHARE - 1, 1):
        clock[0] += seconds
        add(tmp_path, 1)
        seen.append(source.page()[0])
    assert seen[0] == b"at 2.0" and seen[1] == seen[2] != seen[0] and seen[3] != seen[2]


def test_what_is_no_run_is_not_read_with_every_look(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, tries = [0.0], []
    monkeypatch.setattr(live.time, "monotonic", lambda: clock[0])

    def refused(*_: Any, **__: Any) -> str:
        tries.append(clock[0])
        raise UserError("it is being replaced")

    source = live.Source(test_report.make(tmp_path, test_report.files("words")), None, "")
    kept = source.page()
    monkeypatch.setattr(live.page, "text", refused)
    add(tmp_path, 1)
    for _ in range(8):
        clock[0] += live.SECONDS / 4
        assert source.page()[:2] == kept[:2]
    assert tries == [live.SECONDS, 2 * live.SECONDS]


def test_who_goes_away_is_no_error(
    served: Served, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C closes a connection that was just accepted beneath its thread; a fault is said."""

    def fault(_: live.Source) -> Any:
        raise OSError("a fault")

    with live._server(0, live.Source(served.folder, None, "")) as server:
        here, there = socket.socketpair()
        with here:
            there.close()
            server.process_request_thread(there, ("127.0.0.1", 1))
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(live.Source, "page", fault)
    with pytest.raises(http.client.RemoteDisconnected):
        served.ask()
    assert "OSError: a fault" in capsys.readouterr().err


def test_mistakes(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = test_report.make(tmp_path / "run", {"config.json": json.dumps(test_report.PLAIN)})
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for arguments, message in (
            (["--watch", "--port", port], f"port {port} is in use; give another --port, or none"),
            (["--watch", "--port", 99999], "ports go up to 65535"),
            (["--watch", "--port", -1], "--port is -1"),
            (["--port", port], "--port needs --watch"),
            (["--watch", "--out", tmp_path / "a.html"], "--watch writes no file"),
        ):
            said = supernet(capsys, "report", run, *arguments)
            assert said.status == 2 and message in said.err, said
            assert said.err.count("\n") == 1
    said = supernet(capsys, "report", tmp_path / "later", "--watch")
    assert (said.status, said.err.count("\n")) == (2, 1) and "there is no run folder" in said.err


@contextlib.contextmanager
def watched(folder: pathlib.Path) -> Iterator[str]:
    """The address of a report that the command serves; Ctrl-C ends it, and nothing was written."""
    before = sorted(folder.rglob("*"))
    with processes.start("report", folder, "--watch") as process:
        try:
            said = process.stdout.readline()
            found = re.search(r"at (http://127\.0\.0\.1:(\d+)/) and", said)
            assert found, said
            yield found[1]
            with socket.create_connection(("127.0.0.1", int(found[2]))):  # and asks for nothing
                process.send_signal(signal.SIGINT)
                errors = process.communicate(timeout=SECONDS)[1]
        finally:
            process.kill()
    assert process.returncode == 130 and "Traceback" not in errors, errors
    assert sorted(folder.rglob("*")) == before


def test_the_command(tmp_path: pathlib.Path) -> None:
    folder = test_report.make(tmp_path / "run", test_report.files("words"))
    with watched(folder) as address, urllib.request.urlopen(address, timeout=SECONDS) as answer:
        assert answer.status == 200 and "step 30 of 40" in answer.read().decode()


@pytest.mark.slow  # needs a browser
def test_the_command_in_a_browser(tmp_path: pathlib.Path) -> None:
    """What was set stays while the page follows a run; Ctrl-C ends the command, whoever looks."""
    folder = tmp_path / "run"
    browser.report.write_run(folder, browser.report.config.SPACES["digits"], count=40)
    for driver in browser.opened():
        with watched(folder) as address:
            followed(driver, address, folder)
        until(driver, f"{STALE}.includes('has ended')")


def followed(driver: Any, address: str, folder: pathlib.Path) -> None:
    """Looks at a page that is served while its run goes on."""
    browser.look(driver, address)
    slider = driver.find_element("id", "range-0")
    driver.execute_script(
        "arguments[0].value = 77; arguments[0].dispatchEvent(new Event('input'));"
        "document.querySelector('details').open = true; window.old = true; scrollTo(0, 321)",
        slider,
    )
    kept = driver.find_element("id", "most-0").get_attribute("value")
    picked = driver.find_element("id", "picked").text
    add(folder, 501)
    until(driver, "return !window.old && document.readyState == 'complete'")
    assert driver.execute_script(STALE) == ""
    assert "step 501 of 500" in driver.find_element("tag name", "header").text
    assert driver.find_element("id", "most-0").get_attribute("value") == kept != ""
    assert driver.find_element("id", "picked").text == picked
    state = "return [document.querySelector('details').open, scrollY]"
    assert driver.execute_script(state) == [True, 321]
    assert browser.messages(driver) == []


@pytest.mark.slow  # needs a browser
def test_the_run_may_go_on_before_the_first_look(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page that is old as soon as it is there is replaced, too."""
    ask, sent = live.Source.page, []

    def and_on(source: live.Source) -> Any:
        sent.append(ask(source))
        if len(sent) == 1:
            add(served.folder, 35)
        return sent[-1]

    monkeypatch.setattr(live.Source, "page", and_on)
    for driver in browser.opened():
        browser.look(driver, f"http://127.0.0.1:{served.port}/")
        until(driver, "return document.querySelector('header').textContent.includes('step 35 of')")
    assert "step 30 of 40" in sent[0][0].decode()


def until(driver: Any, script: str) -> None:
    """Waits for what a page says of itself."""
    end = time.monotonic() + SECONDS
    while not driver.execute_script(script):
        assert time.monotonic() < end, "it did not follow"
        time.sleep(0.1)
