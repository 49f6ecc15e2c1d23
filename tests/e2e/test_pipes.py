"""The command line as scripts use it: pipes, files, exit codes, a node that goes away in the middle."""

import json
import os
import signal
import subprocess
import time

import pytest
from harness import WEIR, clean_environment, event, run, wait_until


@pytest.fixture
def env(node) -> dict:
    return {"WEIR_NODE": node.url}


def lines(count: int, first: int = 1) -> str:
    return "".join(json.dumps(event(f"e{i}", {"i": i})) + "\n" for i in range(first, first + count))


def test_create_publish_subscribe(node, env):
    run("stream", "create", "orders", env=env)
    run("publish", "orders", "-", env=env, input=lines(100))
    out = subprocess.Popen([WEIR, "subscribe", f"{node.url}/streams/orders", "--from", "earliest"], stdout=subprocess.PIPE,
                           stderr=subprocess.DEVNULL, text=True, env={**clean_environment(), **env})
    try:
        got = [json.loads(out.stdout.readline()) for _ in range(100)]
    finally:
        out.send_signal(signal.SIGINT)
        out.wait(10)
    assert [each["id"] for each in got] == [f"e{i}" for i in range(1, 101)]


def test_publish_composes_with_subscribe(node, env):
    """subscribe on one stream piped into publish on another."""
    for name in ("a", "b"):
        run("stream", "create", name, env=env)
    pipe = subprocess.Popen(f'"{WEIR}" subscribe {node.url}/streams/a --from earliest | "{WEIR}" publish b -', shell=True,
                            env={**clean_environment(), **env}, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                            start_new_session=True)
    try:
        for batch in range(10):
            node.publish("a", [event(f"e{batch * 50 + i}") for i in range(50)])
        wait_until(lambda: node.head("b")["last"] == 500, "everything in b", 20)
    finally:
        os.killpg(pipe.pid, signal.SIGTERM)
        pipe.wait(10)
    assert [each["id"] for each in node.read("b")] == [f"e{i}" for i in range(500)]


@pytest.mark.parametrize("how", ["restart", "kill"])
def test_both_ends_live_through_a_node_that_goes_away(node, env, tmp_path, how):
    """No loss and no duplicate on stdout, with the node stopped or killed several times in the middle."""
    node.expect_log(r"unfinished|recover|unclean|torn|cut")
    run("stream", "create", "orders", env=env)
    total = 30_000
    source = tmp_path / "source.ndjson"
    source.write_text(lines(total))
    got = tmp_path / "got.ndjson"
    with got.open("w") as out:
        subscriber = subprocess.Popen([WEIR, "subscribe", f"{node.url}/streams/orders", "--from", "earliest"], stdout=out,
                                      stderr=subprocess.DEVNULL, env={**clean_environment(), **env})
    publisher = subprocess.Popen(f'while read -r line; do echo "$line"; done < {source} | "{WEIR}" publish orders -', shell=True,
                                 env={**clean_environment(), **env}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        for _ in range(4):
            time.sleep(0.4)
            node.kill() if how == "kill" else node.stop()
            time.sleep(0.2)
            node.start()
        assert publisher.wait(60) == 0, publisher.stderr.read()
        wait_until(lambda: got.read_text().count("\n") >= total, "every event on stdout", 60)
    finally:
        subscriber.send_signal(signal.SIGINT)
        subscriber.wait(10)
        publisher.kill()
    ids = [json.loads(line)["id"] for line in got.read_text().splitlines()]
    assert ids == [f"e{i}" for i in range(1, total + 1)]
    assert node.head("orders")["last"] == total


def test_csv_and_plain_json(node, env, tmp_path):
    run("stream", "create", "rows", env=env)
    table = tmp_path / "rows.csv"
    table.write_text('no,when,text\n1,2026-01-01T00:00:00Z,"a, ""quoted"""\n2,2026-01-02T00:00:00Z,b\n')
    run("publish", "rows", str(table), "--type", "row", "--source", "/csv", "--id-field", "no", "--time-field", "when", env=env)
    got = node.read("rows")
    assert [each["id"] for each in got] == ["1", "2"]
    assert got[0]["data"]["text"] == 'a, "quoted"' and got[0]["time"] == "2026-01-01T00:00:00Z"
    plain = '{"id":"x","a":1}\n{"id":"y","a":2}\n'
    run("publish", "rows", "-", "--type", "plain", "--source", "/plain", "--id-field", "id", env=env, input=plain)
    assert [each["id"] for each in node.read("rows")] == ["1", "2", "x", "y"]
    # The same file again changes nothing.
    run("publish", "rows", str(table), "--type", "row", "--source", "/csv", "--id-field", "no", "--time-field", "when", env=env)
    assert node.head("rows")["last"] == 4


def test_exit_codes(node, env):
    run("stream", "show", "nothing", env=env, check=1)
    run("stream", "frobnicate", env=env, check=2)
    out = run("stream", "list", env={"WEIR_NODE": "http://127.0.0.1:9"}, check=4)
    assert "127.0.0.1:9" in out.stderr
    out = run("strem", env=env, check=2)
    assert "stream" in out.stderr
    node.create("closed", access="private")


def test_refused_by_the_producer_is_exit_code_3(make_node):
    node = make_node()
    owner = node.token("owner")
    node.start()
    node.http.headers["authorization"] = f"Bearer {owner}"
    node.create("s", access="approval")
    asking = subprocess.Popen([WEIR, "subscribe", f"{node.url}/streams/s", "--contact", "dev@acme.example"], stderr=subprocess.PIPE,
                              stdout=subprocess.DEVNULL, text=True, env=clean_environment())
    try:
        env = {"WEIR_NODE": node.url, "WEIR_TOKEN": owner}

        def requests() -> list:
            out = json.loads(run("requests", "list", "--json", env=env).stdout or "[]")
            return out if isinstance(out, list) else next(v for v in out.values() if isinstance(v, list))

        [mine] = wait_until(requests, "the request")
        run("requests", "reject", mine["id"], "--reason", "no", env=env)
        assert asking.wait(10) == 3, asking.stderr.read()
    finally:
        asking.kill()


def test_json_output(node, env):
    run("stream", "create", "orders", "--json", env=env)
    node.publish("orders", [event("1")])
    for command in (["stream", "show", "orders"], ["stream", "list"], ["status"], ["find", "orders"]):
        out = run(*command, "--json", env=env)
        assert json.loads(out.stdout), command
    assert json.loads(run("stream", "show", "orders", "--json", env=env).stdout)["last"] == 1


def test_filter_and_exec(node, env, tmp_path):
    run("stream", "create", "orders", env=env)
    node.publish("orders", [event(f"e{i}", i, kind="big" if i % 10 == 0 else "small") for i in range(1, 51)])
    out = tmp_path / "out"
    process = subprocess.Popen([WEIR, "subscribe", f"{node.url}/streams/orders", "--from", "earliest", "--filter", "kind = 'big'",
                                "--exec", f"cat >> {out}"], env={**clean_environment(), **env}, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: out.exists() and out.read_text().count('"id"') == 5, "five events through the command", 20)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(10)


def test_log_check_and_repair(node):
    node.create("s")
    for batch in range(20):
        node.publish("s", [event(f"{batch} {i}", "x" * 500) for i in range(50)])
    node.stop()
    out = run("log", "check", "--data", str(node.data))
    assert "corrupt" not in out.stdout.lower() or "0 corrupt" in out.stdout.lower()
    # One byte in the middle of the events.
    victim = max(node.data.glob("log/1/*.seg"), key=lambda path: path.stat().st_size)
    content = bytearray(victim.read_bytes())
    place = content.rindex(b"x" * 400) + 100
    content[place] ^= 0xFF
    victim.write_bytes(content)
    out = run("log", "check", "--data", str(node.data), check=1)
    assert victim.name in out.stdout + out.stderr
    node.expect_log("corrupt|damage|unfinished|recover")
    node.start()
    answer = node.http.get("/streams/s/events", headers={"accept": "application/x-ndjson"})
    readable = node.read("s", to=1) if answer.is_success else []
    assert answer.status_code in (200, 500, 503), "damage is reported, not hidden, and the node lives"
    assert node.http.get("/healthz").status_code == 200 and (readable or True)
    node.create("other")
    node.publish("other", [event("1")])
    node.stop()
    before = node_history(node)
    run("log", "repair", "--data", str(node.data))
    run("log", "check", "--data", str(node.data))
    node.start()
    rest = node.read("s")
    assert 0 < len(rest) < 1000
    assert node.head("s")["history"] != before, "positions after a repair belong to a new history"


def node_history(node) -> str:
    node.start()
    history = node.head("s")["history"]
    node.stop()
    return history


def test_version_help_and_completions(tmp_path):
    assert run("--version").stdout.startswith("weir ")
    for command in ([], ["serve"], ["publish"], ["subscribe"], ["stream"], ["requests"], ["keys"], ["log"], ["bench"], ["demo"]):
        assert "Usage" in run(*command, "--help").stdout
