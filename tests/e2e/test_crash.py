"""kill -9 under load, again and again: what was acknowledged is there, where it was said to be, as it was sent, once.

Publishers send small batches as fast as they are answered, to a stream that syncs and to one that is written only (a killed
process loses neither), and note every acknowledgement. The node is killed at a random moment of each round and started again. A
publisher whose last batch was not answered sends the same ids again, as a client should. A consumer tails each stream all
the while and resumes by Last-Event-ID. At the end:

  - every acknowledged event stands at its acknowledged position with its data (nothing lost, renumbered or altered);
  - no id stands twice, and nothing stands there that nobody sent (retries were recognized);
  - events of one publisher are in the order it sent them;
  - positions have no gap, and the history never changed;
  - the consumer got every position once, in order, with the same content.

A seed is printed with every failure; WEIR_TEST_SEED repeats its schedule (not the machine's timing)."""

import json
import os
import random
import threading
import time

import httpx
import pytest
from harness import BATCH, NDJSON, QUICK, Tail, event, wait_until

ROUNDS = 20 if QUICK else 200
STREAMS = {"synced": "fsync", "fast": "written"}


class Publisher(threading.Thread):
    """Publishes to one stream until stopped; pauses while the node is down; retries what was not answered."""

    def __init__(self, node, stream: str, number: int, seed: int):
        super().__init__(daemon=True, name=f"publisher {number} of {stream}")
        self.node, self.stream, self.number = node, stream, number
        self.random = random.Random(seed)
        self.acknowledged: dict[int, str] = {}
        """position → id"""
        self.sent: list[str] = []
        """ids in the order of sending; a retried batch stands once"""
        self.retries = self.duplicates = 0
        self.problems: list[str] = []
        self.stopping = threading.Event()
        self.running = threading.Event()
        self.running.set()
        self.count = 0

    def data(self, id: str) -> dict:
        return {"of": id, "fill": "x" * (int(id.rsplit("-", 1)[1]) * 37 % 400)}

    def batch(self) -> list[dict]:
        events = []
        for _ in range(self.random.choice([1, 1, 2, 5, 20])):
            self.count += 1
            id = f"{self.stream}-{self.number}-{self.count}"
            events.append(event(id, self.data(id), source=f"/publisher/{self.number}"))
        return events

    def run(self):
        pending, client = None, httpx.Client(base_url=self.node.url, timeout=10)
        while not (self.stopping.is_set() and pending is None):
            if not self.running.wait(0.05):
                continue
            retry = pending is not None
            if pending is None:
                pending = self.batch()
                self.sent += [each["id"] for each in pending]
            try:
                answer = client.post(f"/streams/{self.stream}/events", params={"positions": 1}, content=json.dumps(pending),
                                     headers={"content-type": BATCH})
            except (httpx.HTTPError, OSError):
                client.close()
                client = httpx.Client(base_url=self.node.url, timeout=10)
                time.sleep(0.005)
                continue
            if answer.status_code == 503:
                time.sleep(0.02)
                continue
            if not answer.is_success:
                self.problems.append(f"{answer.status_code} {answer.text}")
                return
            body = answer.json()
            if retry:
                self.retries += 1
                self.duplicates += body["duplicates"]
            elif body["duplicates"]:
                self.problems.append(f"{body['duplicates']} duplicates in a first attempt of {pending[0]['id']}")
            for position, each in zip(body["positions"], pending, strict=True):
                if self.acknowledged.setdefault(position, each["id"]) != each["id"]:
                    self.problems.append(f"position {position} given to {self.acknowledged[position]} and {each['id']}")
            pending = None


def check(node, stream: str, publishers: list[Publisher], tail: Tail, history: str) -> int:
    """All promises for one stream; answers how many events it holds."""
    stored: dict[int, dict] = {}
    for line in node.read_lines(stream):
        each = json.loads(line)
        stored[int(each["flowposition"])] = each
    assert node.head(stream)["history"] == history, "a killed process is no reason for a new history"
    assert list(stored) == list(range(1, len(stored) + 1)), "positions have gaps or are out of order"
    ids = [each["id"] for each in stored.values()]
    assert len(set(ids)) == len(ids), "an event is stored twice"
    data = {publisher.number: publisher.data for publisher in publishers}
    for publisher in publishers:
        assert not publisher.problems, publisher.problems[:5]
        for position, id in publisher.acknowledged.items():
            assert position in stored, f"{id}, acknowledged at {position}, is lost"
            assert stored[position]["id"] == id, f"{id}, acknowledged at {position}, has moved: there is {stored[position]['id']}"
        own = [each["id"] for each in stored.values() if each["source"] == f"/publisher/{publisher.number}"]
        assert own == publisher.sent, "an event is missing, unsent or out of order"
    for each in stored.values():
        number = int(each["source"].rsplit("/", 1)[1])
        assert each["data"] == data[number](each["id"]), f"{each['id']} was altered"
    tail.wait_for(len(stored), 30)
    assert not tail.problems and not tail.notices, (tail.problems[:5], tail.notices[:5])
    assert [position for position, _ in tail.received] == list(stored)
    for position, each in tail.received:
        assert each["id"] == stored[position]["id"] and each["data"] == stored[position]["data"], f"position {position} differs"
    return len(stored)


@pytest.mark.parametrize("rounds", [ROUNDS])
def test_rounds_of_kill_under_load(make_node, rounds):
    seed = int(os.environ.get("WEIR_TEST_SEED", random.randrange(1 << 32)))
    print(f"WEIR_TEST_SEED={seed}")
    moments = random.Random(seed)
    node = make_node()
    # After a crash the log says what it found and cut off: that is its duty.
    node.expect_log(r"unfinished|recover|unclean|torn|cut")
    node.start()
    histories = {}
    for stream, durability in STREAMS.items():
        node.create(stream, durability=durability)
        histories[stream] = node.head(stream)["history"]
    publishers = [Publisher(node, stream, number, seed + number) for number, stream in enumerate(list(STREAMS) * 2)]
    tails = {stream: Tail(node.url, f"/streams/{stream}/events", from_="earliest") for stream in STREAMS}
    for thread in [*publishers, *tails.values()]:
        thread.start()
    began = time.monotonic()
    for _ in range(rounds):
        time.sleep(moments.uniform(0.01, 0.4))
        node.kill()
        node.start()
        assert not any(publisher.problems for publisher in publishers), [p.problems for p in publishers]
    for publisher in publishers:
        publisher.stopping.set()
    for publisher in publishers:
        publisher.join(30)
        assert not publisher.is_alive()
    total = 0
    for stream in STREAMS:
        of_stream = [publisher for publisher in publishers if publisher.stream == stream]
        total += check(node, stream, of_stream, tails[stream], histories[stream])
    for tail in tails.values():
        tail.stop()
    retries, duplicates = sum(p.retries for p in publishers), sum(p.duplicates for p in publishers)
    print(f"{rounds} rounds in {time.monotonic() - began:.0f} s: {total} events, {retries} batches retried, {duplicates} events "
          f"of them already stored, {sum(t.connections for t in tails.values())} connections of the tails")
    assert retries > rounds / 4, "too few batches were hit by a kill for this to show anything"
    # And once more from the disk alone.
    node.restart()
    for stream in STREAMS:
        assert node.head(stream)["last"] == len(tails[stream].received)


def test_kill_during_start(make_node):
    """Killed while it recovers, a node recovers the next time."""
    node = make_node()
    node.expect_log(r"unfinished|recover|unclean|torn|cut")
    node.start()
    node.create("s")
    for batch in range(20):
        node.publish("s", [event(f"{batch}-{i}", "x" * 1000) for i in range(100)])
    import signal
    import subprocess

    from harness import WEIR, clean_environment
    node.kill()
    for delay in (0.0, 0.002, 0.005, 0.01, 0.02, 0.05):
        half = subprocess.Popen([WEIR, "serve", "--listen", f"127.0.0.1:{node.port}", "--data", str(node.data), "--name", node.name],
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=clean_environment())
        time.sleep(delay)
        half.send_signal(signal.SIGKILL)
        half.wait()
    node.start()
    assert len(node.read("s")) == 2000


def test_kill_loses_at_most_a_second_of_cursor(make_node):
    """Cursors are saved at most once a second: after a kill a consumer may see the last second again, never a gap."""
    node = make_node()
    node.start()
    node.create("s")
    node.publish("s", [event(f"{i}", i) for i in range(1, 101)])
    body = node.http.post("/subscriptions", json={"protocol": "SSE", "config": {"stream": "s", "from": "earliest"}}).json()
    id = body["id"]
    client = node.client(body["grant"])
    client.post(f"/subscriptions/{id}/ack", json={"ack": 50}).raise_for_status()
    time.sleep(1.6)
    client.post(f"/subscriptions/{id}/ack", json={"ack": 60}).raise_for_status()
    node.kill()
    node.start()
    client = node.client(body["grant"])
    cursor = client.get(f"/subscriptions/{id}").json()["cursor"]
    assert cursor in (50, 60), cursor


def test_nothing_is_seen_that_a_kill_could_take_back(make_node):
    """A reader that is faster than the disk still never holds an event that is gone after the kill."""
    node = make_node()
    node.expect_log(r"unfinished|recover|unclean|torn|cut")
    node.start()
    node.create("s")
    publisher = Publisher(node, "s", 0, 1)
    publisher.start()
    for _ in range(5 if QUICK else 20):
        seen: list[bytes] = []
        stop = threading.Event()

        def poll():
            with httpx.Client(base_url=node.url) as client:
                at = node_head
                while not stop.is_set():
                    try:
                        answer = client.get("/streams/s/events", params={"from": at + len(seen) + 1}, headers={"accept": NDJSON})
                    except (httpx.HTTPError, OSError):
                        return
                    seen.extend(line for line in answer.content.split(b"\n") if line)

        node_head = node.head("s")["last"]
        polling = threading.Thread(target=poll)
        polling.start()
        time.sleep(0.2)
        node.kill()
        stop.set()
        polling.join()
        node.start()
        after = list(node.read_lines("s", from_=node_head + 1))
        assert after[:len(seen)] == seen
    publisher.stopping.set()
    wait_until(lambda: not publisher.is_alive(), "the publisher to end")
    assert not publisher.problems
