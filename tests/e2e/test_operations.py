"""What an operator relies on: start, stop, health, metrics, the node's own streams, limits of the disk directory."""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import httpx
import pytest
from harness import WEIR, Messages, clean_environment, done, event, free_port, run, wait_until


def serve(*args: str, **more) -> subprocess.CompletedProcess:
    """A start that must end by itself."""
    return subprocess.run([WEIR, "serve", *args], capture_output=True, text=True, timeout=20, env=clean_environment(), **more)


def test_health_and_readiness(node):
    assert node.http.get("/healthz").status_code == 200
    assert node.http.get("/readyz").status_code == 200
    assert node.http.get("/openapi.json").json()["openapi"].startswith("3.")


def test_who_this_is(node):
    found = done(node.http.get("/.well-known/flow"))
    assert found["organization"] == "weatherflow.example" or "weatherflow.example" in json.dumps(found)
    assert re.fullmatch(r"\d+\.\d+", found["spec"])
    assert node.url in json.dumps(found["endpoints"])
    assert isinstance(found["features"], list)


def test_every_path_of_the_openapi_document_is_there(node):
    document = node.http.get("/openapi.json").json()
    assert len(document["paths"]) >= 15
    for path in document["paths"]:
        concrete = re.sub(r"\{[^}]*\}", "x", path)
        answer = node.http.request("OPTIONS", concrete)
        assert answer.status_code != 404, path


def test_metrics_parse_and_count(node):
    node.create("orders")
    node.publish("orders", [event(f"{i}") for i in range(10)])
    node.read("orders")
    answer = node.http.get("/metrics")
    assert answer.status_code == 200
    names = set()
    for line in answer.text.splitlines():
        if line.startswith("#") or not line:
            continue
        match = re.fullmatch(r'([a-z_:][a-z0-9_:]*)(\{[^}]*\})? ([-+0-9.eE]+|NaN|[+-]?Inf)', line)
        assert match, line
        names.add(match[1])
    assert len(names) > 20
    # No label may grow with what outsiders do.
    assert "127.0.0.1" not in answer.text
    assert any(name.endswith("_total") for name in names)


def test_graceful_stop_is_quick_with_open_connections(node):
    node.create("orders")
    node.publish("orders", [event("1")])
    connections = [Messages(node.http, "/streams/orders/events", from_="earliest") for _ in range(20)]
    for each in connections:
        each.events(1)
    began = time.monotonic()
    node.stop()
    assert time.monotonic() - began < 10
    for each in connections:
        each.close()
    node.start()
    assert len(node.read("orders")) == 1


def test_start_after_stop_keeps_everything(node):
    node.create("orders", title="Orders", tags=["a"])
    node.publish("orders", [event(f"{i}", i) for i in range(100)])
    before, events = node.head("orders"), node.read("orders")
    node.restart()
    after = node.head("orders")
    for name in ("title", "tags", "history", "first", "last", "created", "access"):
        assert before[name] == after[name], name
    assert node.read("orders") == events
    assert node.publish("orders", [event("next")])["first"] == 101


def test_two_nodes_never_share_a_data_directory(node):
    out = serve("--listen", f"127.0.0.1:{free_port()}", "--data", str(node.data))
    assert out.returncode == 1, out
    assert "in use" in out.stderr + out.stdout or "lock" in out.stderr + out.stdout
    node.create("still-fine")


def test_a_busy_port_is_named(node, tmp_path):
    out = serve("--listen", f"127.0.0.1:{node.port}", "--data", str(tmp_path / "other"))
    assert out.returncode == 1 and str(node.port) in out.stderr + out.stdout


def test_other_addresses_need_authentication_and_a_word_about_plaintext(tmp_path, make_node):
    out = serve("--listen", f"0.0.0.0:{free_port()}", "--data", str(tmp_path / "a"))
    assert out.returncode != 0 and "--insecure-plaintext" in out.stderr + out.stdout
    out = serve("--listen", f"0.0.0.0:{free_port()}", "--data", str(tmp_path / "a"), "--insecure-plaintext")
    assert out.returncode != 0 and "token" in out.stderr + out.stdout
    node = make_node()
    node.token("owner")
    out = serve("--listen", f"0.0.0.0:{free_port()}", "--data", str(node.data))
    assert out.returncode != 0 and "--insecure-plaintext" in out.stderr + out.stdout


def test_an_unknown_setting_names_the_nearest(tmp_path):
    config = tmp_path / "weir.toml"
    config.write_text('listn = "127.0.0.1:0"\n')
    out = serve("--config", str(config), cwd=tmp_path)
    assert out.returncode in (1, 2) and "listn" in out.stderr and "listen" in out.stderr


def test_configuration_flags_win(make_node, tmp_path):
    config = tmp_path / "weir.toml"
    config.write_text('listen = "127.0.0.1:1"\nname = "file.example"\n')
    node = make_node(args=("--config", str(config)), name="flag.example")
    node.start()
    assert "flag.example" in node.http.get("/.well-known/flow").text


def test_an_older_program_refuses_a_newer_format_by_name(node):
    node.stop()
    for name in ("format", "FORMAT", "VERSION", "version"):
        for path in node.data.rglob(name):
            path.write_text(re.sub(r"\d+", "999", path.read_text(), count=1))
            out = serve("--listen", f"127.0.0.1:{free_port()}", "--data", str(node.data))
            assert out.returncode == 1 and "999" in out.stderr + out.stdout
            path.write_text(re.sub(r"999", "1", path.read_text(), count=1))
            node.start()
            return
    raise AssertionError("no file in the data directory says its format version")


def test_the_data_directory_is_its_owners_alone(node):
    assert node.data.stat().st_mode & 0o077 == 0 or all(
        path.stat().st_mode & 0o077 == 0 for path in node.data.rglob("*") if "secret" in path.name or "token" in path.name)


def test_the_nodes_own_streams(node):
    node.create("orders")
    for name in ("_weir.audit", "_weir.ops", "_weir.usage"):
        assert node.http.get(f"/streams/{name}").status_code == 200, name
    wait_until(lambda: any("orders" in json.dumps(each) for each in node.read("_weir.audit")), "the creation in the audit")
    ops = node.read("_weir.ops")
    assert ops, "a start is an operational event"
    with Messages(node.http, "/streams/_weir.audit/events", from_="latest") as messages:
        messages.until("heartbeat")
        node.create("another")
        assert "another" in json.dumps(messages.events(1)[0])


def test_logs_are_structured_and_hold_no_payload(node):
    node.create("orders")
    node.publish("orders", [event("1", {"secret": "do-not-log-me"})])
    node.http.get("/streams/nothing")
    node.restart()
    for line in node.log_text().splitlines():
        json.loads(line)
    assert "do-not-log-me" not in node.log_text()


def test_an_open_node_says_so(node):
    assert re.search(r"without authentication|no token|open", node.log_text())


@pytest.mark.parametrize("when", [signal.SIGTERM, signal.SIGINT])
def test_both_signals_stop_it(make_node, when):
    node = make_node().start()
    node.process.send_signal(when)
    assert node.process.wait(10) == 0
    node.process = None


def test_demo_shows_a_live_table(tmp_path):
    """The demo starts two organizations, prints what happens and the curl lines to try, and ends on Ctrl-C."""
    process = subprocess.Popen([WEIR, "demo"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path,
                               env=clean_environment())
    os.set_blocking(process.stdout.fileno(), False)
    text = ""

    def more() -> bool:
        nonlocal text
        try:
            text += process.stdout.read() or ""
        except (TypeError, BlockingIOError):
            pass
        assert process.poll() is None, text
        return "acme" in text and "weatherflow" in text and "curl" in text and any(code in text for code in ("EWR", "JFK", "LGA"))

    try:
        wait_until(more, "the demo to show its table", 30)
    finally:
        process.send_signal(signal.SIGINT)
        code = process.wait(15)
    assert code == 0
    assert "panicked" not in text


def test_idle_node_is_small(node):
    time.sleep(1)
    status = Path(f"/proc/{node.process.pid}/status").read_text()
    resident = int(re.search(r"VmRSS:\s+(\d+)", status)[1])
    # A debug build; the release figure stands in bench/RESULTS.md.
    assert resident < 64 * 1024, f"{resident} KiB"


def test_a_client_that_waits_for_continue(node):
    node.create("orders")
    out = subprocess.run(["curl", "-s", "-m", "5", "-H", "Expect: 100-continue", "-H", "content-type: application/cloudevents+json",
                          "--data-binary", json.dumps(event("1", "x" * 10_000)), f"{node.url}/streams/orders/events"],
                         capture_output=True, text=True)
    assert json.loads(out.stdout)["count"] == 1


def test_usage_is_metered(make_node):
    node = make_node()
    owner = node.token("owner")
    node.start()
    node.http.headers["authorization"] = f"Bearer {owner}"
    node.create("s", access="open")
    node.publish("s", [event(f"{i}") for i in range(10)])
    with httpx.Client(base_url=node.url) as anyone, Messages(anyone, "/streams/s/events", from_="earliest") as messages:
        messages.events(10)
    node.restart()
    wait_until(lambda: node.read("_weir.usage"), "a usage record after a stop")
