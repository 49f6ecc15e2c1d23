"""The disk at its worst, under the real program: syncs that take their time, syncs that fail, no room left.

`disk_control.py` holds back or fails the node's own system calls; the full disk is a small file system of its own."""

import contextlib
import errno
import json
import shutil
import subprocess
import threading
import time
from pathlib import Path

import httpx
import pytest
from disk_control import SYNCS, DiskControl, available
from harness import BATCH, JSON, Messages, Tail, done, event, problem, wait_until

controlled = pytest.mark.skipif(not available(), reason="this machine does not let a process filter its own calls")


def data_sync(name: str, path: str) -> bool:
    """Syncs of the segments that streams live in; the control shard is number 0."""
    return name in SYNCS and "/log/" in path and "/log/0" not in path


class Call(threading.Thread):
    """A publish in a thread of its own; `answer` once it has one."""

    def __init__(self, node, stream: str, *events: dict):
        super().__init__(daemon=True)
        self.node, self.stream, self.events, self.answer = node, stream, events, None
        self.start()

    def run(self):
        with contextlib.suppress(httpx.HTTPError), httpx.Client(base_url=self.node.url, timeout=60) as client:
            self.answer = client.post(f"/streams/{self.stream}/events", params={"positions": 1}, content=json.dumps(self.events),
                                      headers={"content-type": BATCH})

    def result(self, seconds: float = 10) -> httpx.Response:
        self.join(seconds)
        assert self.answer is not None, "the publisher still waits"
        return self.answer


@pytest.fixture
def disk_node(make_node):
    node = make_node(disk=DiskControl())
    node.start()
    node.create("synced")
    node.create("fast", durability="written")
    node.publish("synced", [event("before", 0)])
    node.publish("fast", [event("before", 0)])
    return node


def see(node, stream: str = "synced") -> list[str]:
    return [each["id"] for each in node.read(stream)]


@controlled
def test_while_a_sync_is_held_back_nobody_sees_the_event(disk_node):
    node = disk_node
    tail = Tail(node.url, "/streams/synced/events", from_="earliest")
    tail.start()
    tail.wait_for(1)
    node.disk.hold(data_sync)
    first = Call(node, "synced", event("late", 1))
    wait_until(lambda: node.disk.waiting, "the sync to be held back")
    retry = Call(node, "synced", event("late", 1))
    written = Call(node, "fast", event("fast", 1))
    assert done(written.result())["first"] == 2, "a written stream never waits for a sync"
    time.sleep(1.5)
    assert first.answer is None and retry.answer is None, "acknowledged before it was durable"
    assert see(node) == ["before"]
    assert node.head("synced")["last"] == 1
    assert [position for position, _ in tail.received] == [1]
    with Messages(node.http, "/streams/synced/events", from_="latest") as messages:
        assert messages.until("heartbeat")["head"] == 1
    node.disk.release()
    answers = sorted((done(call.result()) for call in (first, retry)), key=lambda a: a["duplicates"])
    assert [(a["count"], a["duplicates"], a["positions"]) for a in answers] == [(1, 0, [2]), (0, 1, [2])]
    tail.wait_for(2)
    assert see(node) == ["before", "late"]
    assert [each["id"] for _, each in tail.received] == ["before", "late"]
    tail.stop()


@controlled
@pytest.mark.parametrize("end", ["restart", "kill"])
def test_when_the_sync_fails_nobody_ever_gets_the_event(disk_node, end):
    node = disk_node
    node.expect_log("sync|unknown|recover|unfinished|cut")
    tail = Tail(node.url, "/streams/synced/events", from_="earliest")
    tail.start()
    tail.wait_for(1)
    node.disk.hold(data_sync)
    first = Call(node, "synced", event("lost", 1))
    wait_until(lambda: node.disk.waiting, "the sync to be held back")
    retry = Call(node, "synced", event("lost", 1))
    time.sleep(0.3)
    node.disk.release(errno.EIO)
    for call in (first, retry):
        answer = call.result()
        # The retry may have come into the next group, which went well: then it is stored, once, and that is all right.
        if answer.status_code == 503:
            problem(answer, 503, "outcome-unknown")
        else:
            assert call is retry and done(answer)["count"] == 1
    problem(first.result(), 503, "outcome-unknown")
    stored_by_retry = retry.answer.is_success
    time.sleep(0.5)
    expected = ["before", "lost"] if stored_by_retry else ["before"]
    assert see(node) == expected

    # It goes on in a new file, at the position that nobody was shown.
    after = node.publish("synced", [event("after", 2)])
    assert after["first"] == len(expected) + 1
    expected.append("after")
    node.kill() if end == "kill" else node.stop()
    node.start()
    assert see(node) == expected
    again = node.publish("synced", [event("lost", 1), event("before", 0)])
    assert again["duplicates"] == (2 if stored_by_retry else 1)
    tail.wait_for(3)
    tail.stop()
    assert [each["id"] for _, each in tail.received][:len(expected)] == expected and not tail.problems


@controlled
def test_a_sync_that_keeps_failing_keeps_refusing(disk_node):
    node = disk_node
    node.expect_log("sync|unknown|recover|unfinished|cut|refus")
    node.disk.fail(lambda name, path: errno.EIO if data_sync(name, path) else 0)
    for i in range(3):
        answer = Call(node, "synced", event(f"never {i}")).result()
        assert answer.status_code == 503, answer.text
    assert see(node) == ["before"]
    node.create("decisions-go-on")
    node.disk.fail(lambda name, path: 0)
    wait_until(lambda: Call(node, "synced", event("at last")).result().is_success, "the node to recover by itself", 20)
    assert see(node) == ["before", "at last"]


@controlled
def test_a_decision_that_could_not_be_synced_is_not_taken(disk_node):
    node = disk_node
    node.expect_log("sync|unknown|recover|unfinished|cut|refus|decision")
    node.disk.fail(lambda name, path: errno.EIO if name in SYNCS and "/log/0" in path else 0)
    answer = node.http.put("/streams/new", json={})
    assert answer.status_code == 503, answer.text
    node.disk.fail(lambda name, path: 0)
    wait_until(lambda: node.http.put("/streams/other", json={}).is_success, "decisions to go on", 20)
    status = node.http.get("/streams/new").status_code
    node.restart()
    assert node.http.get("/streams/new").status_code == status, "what was decided depends on when one asks"


@controlled
def test_one_flush_per_group_and_none_beside(disk_node):
    node = disk_node

    def flushes(work) -> int:
        time.sleep(1.5)  # an idle second's mark is none of ours
        before = sum(node.disk.count[name] for name in SYNCS)
        work()
        return sum(node.disk.count[name] for name in SYNCS) - before

    def one_by_one():
        for i in range(100):
            done(node.http.post("/streams/synced/events", content=json.dumps(event(f"one {i}")), headers={"content-type": JSON}))

    count = flushes(one_by_one)
    assert 100 <= count <= 106, f"{count} flushes for 100 events, one by one"
    count = flushes(lambda: node.publish("synced", [event(f"batch {i}") for i in range(5000)]))
    assert 1 <= count <= 3, f"{count} flushes for one batch"

    def together():
        calls = [Call(node, "synced", *[event(f"t {c} {i}") for i in range(10)]) for c in range(50)]
        for call in calls:
            done(call.result())

    node.disk.hold(data_sync)
    time.sleep(1.5)
    before = sum(node.disk.count[name] for name in SYNCS)
    opener = Call(node, "synced", event("opens the group"))
    wait_until(lambda: node.disk.waiting, "the first sync")
    calls = [Call(node, "synced", event(f"shared {i}")) for i in range(50)]
    time.sleep(1)
    node.disk.release()
    for call in [opener, *calls]:
        done(call.result())
    count = sum(node.disk.count[name] for name in SYNCS) - before
    assert count <= 4, f"{count} flushes for 51 publishers of one moment"
    together()


@controlled
def test_start_to_first_publish_costs_two_flushes(make_node):
    """One for a new history's or session's sake at most, one for the event."""
    node = make_node(disk=DiskControl())
    node.start()
    node.create("s")
    node.publish("s", [event("1")])
    node.restart()
    before = sum(node.disk.count[name] for name in SYNCS)
    node.publish("s", [event("2")])
    count = sum(node.disk.count[name] for name in SYNCS) - before
    assert count <= 2, f"{count} flushes"


def small_disk(directory: Path, size: str) -> tuple:
    """A wrapper that gives a program a small file system of its own at `directory`; skips where that isn't allowed."""
    if not shutil.which("unshare"):
        pytest.skip("no unshare here")
    wrapper = ("unshare", "--mount", "--map-root-user", "sh", "-c",
               f'mount -t tmpfs -o size={size},mode=700 none "{directory}" && exec "$@"', "sh")
    directory.mkdir(parents=True, exist_ok=True)
    if subprocess.run([*wrapper, "true"], capture_output=True).returncode != 0:
        pytest.skip("mounting a small file system is not allowed here")
    return wrapper


def test_a_full_disk_refuses_publishers_and_serves_everybody_else(make_node, tmp_path):
    node = make_node(wrapper=small_disk(tmp_path / "node0" / "data", "400m"))
    node.expect_log("disk|watermark|room|space|full")
    node.start()
    node.create("s", access="open")
    node.publish("s", [event(f"{i}", i) for i in range(100)])
    subscription = done(node.http.post("/subscriptions", json={"protocol": "SSE", "config": {"stream": "s", "from": "earliest"}}))
    inside = Path(f"/proc/{node.process.pid}/root{node.data}")
    ballast = inside / "ballast"
    with ballast.open("wb") as file:
        block = b"\0" * (1 << 20)
        try:
            while True:
                file.write(block)
                file.flush()
        except OSError as error:
            assert error.errno == errno.ENOSPC

    def refused() -> httpx.Response | None:
        answer = node.http.post("/streams/s/events", headers={"content-type": BATCH},
                                content=json.dumps([event(f"fill {time.monotonic()} {i}", "x" * 10_000) for i in range(100)]))
        return answer if answer.status_code == 507 else None

    answer = wait_until(refused, "publishers to be refused", 20)
    problem(answer, 507, "disk-full")
    assert int(answer.headers["retry-after"]) >= 1
    head = node.head("s")["last"]
    assert len(node.read("s")) == head, "readers go on"
    with Messages(node.client(subscription["grant"]), f"/subscriptions/{subscription['id']}/events") as messages:
        assert len(messages.events(100)) == 100
    done(node.http.post(f"/subscriptions/{subscription['id']}/suspend", json={"reason": "disk full"}))
    done(node.http.post(f"/subscriptions/{subscription['id']}/resume", json={}))
    done(node.http.post(f"/subscriptions/{subscription['id']}/revoke", json={"reason": "decisions go on"}))
    assert node.http.get("/healthz").status_code == 200
    ballast.unlink()
    wait_until(lambda: not refused(), "publishers to be taken again", 20)
    after = node.publish("s", [event("after")])
    assert after["first"] == node.head("s")["last"]
    ids = [each["id"] for each in node.read("s")]
    assert len(set(ids)) == len(ids) and ids[-1] == "after"


def test_watermarks_come_before_the_disk_is_full(make_node, tmp_path):
    """At 95 % publishers are refused while there is still room for everything else."""
    node = make_node(wrapper=small_disk(tmp_path / "node0" / "data", "400m"))
    node.expect_log("disk|watermark|room|space|full")
    node.start()
    node.create("s")
    ballast = Path(f"/proc/{node.process.pid}/root{node.data}") / "ballast"
    # The node makes its reserve behind the first calls; what it takes must be counted.
    wait_until((ballast.parent / "reserve").exists, "the node's reserve")
    with ballast.open("wb", buffering=0) as file:
        while (used := shutil.disk_usage(ballast.parent)).used < used.total * 0.96:
            file.write(b"\0" * (1 << 20))
    assert shutil.disk_usage(ballast.parent).free > 8 << 20

    def status() -> int:
        return node.http.post("/streams/s/events", content=json.dumps(event(f"{time.monotonic()}")), headers={"content-type": JSON}).status_code

    wait_until(lambda: status() == 507, "publishers to be refused at 95 %", 20)
    assert node.http.get("/readyz").status_code == 503
    wait_until(lambda: "disk" in json.dumps(node.read("_weir.ops")), "an operational event about the disk")
    ballast.unlink()
    wait_until(lambda: status() == 200 or status() == 201, "publishers to be taken again", 20)
