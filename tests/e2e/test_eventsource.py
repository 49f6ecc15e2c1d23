"""A browser-grade EventSource client (npm `eventsource`), left alone while the node stops, starts and is killed."""

import json
import subprocess
import time
from pathlib import Path

from harness import event, wait_until

JS = Path(__file__).resolve().parent.parent / "js"


class Browser:
    """An EventSource in a process of its own; `lines` grows as it speaks."""

    def __init__(self, url: str, count: int, log: Path):
        self.log = log
        self.process = subprocess.Popen(["node", "tail.mjs", url, str(count)], cwd=JS, stdout=log.open("w"))

    @property
    def lines(self) -> list[dict]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def events(self) -> list[dict]:
        return [line for line in self.lines if "event" in line]

    def ids(self) -> list[str]:
        return [line["event"]["id"] for line in self.events()]


def test_resumes_by_itself_over_restart_and_kill(node, tmp_path):
    node.create("weather")
    publish = iter(range(1, 1000))

    def send(count: int):
        node.publish("weather", [event(f"w{next(publish)}") for _ in range(count)])

    send(5)
    browser = Browser(f"{node.url}/streams/weather/events?from=earliest", 40, tmp_path / "browser.log")
    try:
        wait_until(lambda: len(browser.ids()) == 5, "the first five events", 20)
        node.stop()
        node.start()
        send(10)
        wait_until(lambda: len(browser.ids()) == 15, "the events after a restart", 30)
        node.kill()
        time.sleep(0.3)
        node.start()
        send(25)
        assert browser.process.wait(30) == 0
    finally:
        browser.process.kill()
    assert browser.ids() == [f"w{i}" for i in range(1, 41)], "no gap, no repetition"
    assert [line["id"] for line in browser.events()] == [str(i) for i in range(1, 41)]
    assert sum("open" in line for line in browser.lines) >= 3
    assert not [line for line in browser.lines if line.get("closed")]
    assert any("heartbeat" in line for line in browser.lines)
