"""What bad input gets: a problem detail with a stable type, and no effect. Then: input that is hostile rather than wrong."""

import json
import re
import socket
import time

import pytest
from harness import (BATCH, JSON, PROTO, PROTO_BATCH, Messages, done, event, problem, proto_batch, proto_event, wait_until)

GOOD = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t"}


@pytest.fixture(scope="module")
def shared_node(tmp_path_factory):
    """One node for the whole table: each row must leave it as it was."""
    from harness import Node
    node = Node(tmp_path_factory.mktemp("bad"))
    node.start()
    node.create("orders")
    node.publish("orders", [event("first")])
    yield node
    try:
        node.close()
    finally:
        assert not node.unexpected_log()


def structured(**members) -> str:
    return json.dumps({name: value for name, value in {**GOOD, **members}.items() if value is not ...})


EVENTS = "/streams/orders/events"

TABLE = {
    # name: method, path, content type, body, status, error
    "not json": ("POST", EVENTS, JSON, "{", 400, "malformed-event"),
    "not an object": ("POST", EVENTS, JSON, "[]", 400, "malformed-event"),
    "batch that is an object": ("POST", EVENTS, BATCH, structured(), 400, "malformed-event"),
    "no id": ("POST", EVENTS, JSON, structured(id=...), 400, "malformed-event"),
    "empty id": ("POST", EVENTS, JSON, structured(id=""), 400, "malformed-event"),
    "id is a number": ("POST", EVENTS, JSON, structured(id=7), 400, "malformed-event"),
    "no source": ("POST", EVENTS, JSON, structured(source=...), 400, "malformed-event"),
    "source is no uri reference": ("POST", EVENTS, JSON, structured(source="a b"), 400, "malformed-event"),
    "no type": ("POST", EVENTS, JSON, structured(type=...), 400, "malformed-event"),
    "no specversion": ("POST", EVENTS, JSON, structured(specversion=...), 400, "malformed-event"),
    "another specversion": ("POST", EVENTS, JSON, structured(specversion="0.3"), 400, "malformed-event"),
    "bad time": ("POST", EVENTS, JSON, structured(time="yesterday"), 400, "malformed-event"),
    "bad attribute name": ("POST", EVENTS, JSON, structured(Bad_Name="x"), 400, "malformed-event"),
    "attribute is an object": ("POST", EVENTS, JSON, structured(ext={"a": 1}), 400, "malformed-event"),
    "attribute is a fraction": ("POST", EVENTS, JSON, structured(ext=1.5), 400, "malformed-event"),
    "attribute is too great an integer": ("POST", EVENTS, JSON, structured(ext=2**31), 400, "malformed-event"),
    "both data members": ("POST", EVENTS, JSON, structured(data=1, data_base64="AA=="), 400, "malformed-event"),
    "bad base64": ("POST", EVENTS, JSON, structured(data_base64="*"), 400, "malformed-event"),
    "a name twice": ("POST", EVENTS, JSON, '{"specversion":"1.0","id":"1","id":"2","source":"/s","type":"t"}', 400, "malformed-event"),
    "something after the event": ("POST", EVENTS, JSON, structured() + "x", 400, "malformed-event"),
    "invalid utf-8": ("POST", EVENTS, JSON, b'{"specversion":"1.0","id":"\xff","source":"/s","type":"t"}', 400, "malformed-event"),
    "a lone surrogate": ("POST", EVENTS, JSON, '{"specversion":"1.0","id":"\\ud800","source":"/s","type":"t"}', 400, "malformed-event"),
    "text data that is no string": ("POST", EVENTS, JSON, structured(datacontenttype="text/plain", data=[1]), 400, "malformed-event"),
    "nested beyond reason": ("POST", EVENTS, JSON, structured(data=...)[:-1] + ',"data":' + "[" * 100_000 + "]" * 100_000 + "}", 400, "malformed-event"),
    "protobuf garbage": ("POST", EVENTS, PROTO, b"\xff" * 40, 400, "malformed-event"),
    "protobuf cut short": ("POST", EVENTS, PROTO, proto_event("1", text="abc")[:-2], 400, "malformed-event"),
    "protobuf batch with a bad event": ("POST", EVENTS, PROTO_BATCH, proto_batch([proto_event("x1"), b"\x0a\x01a"]), 400, "malformed-event"),
    "binary without attributes": ("POST", EVENTS, "application/json", "{}", 400, "missing-attributes"),
    "wrong content type": ("POST", EVENTS, "application/cloudevents+avro", "x", 415, "unsupported-media-type"),
    "event too large": ("POST", EVENTS, JSON, structured(data="x" * (1 << 20)), 413, "event-too-large"),
    "attributes too large": ("POST", EVENTS, JSON, structured(ext="x" * 70_000), 413, "attributes-too-large"),
    "batch too large": ("POST", EVENTS, BATCH, json.dumps([event(f"b{i}", "x" * 900_000) for i in range(20)]), 413, "batch-too-large"),
    "too many events": ("POST", EVENTS, BATCH, json.dumps([event(f"m{i}") for i in range(10_001)]), 413, "too-many-events"),
    "one bad event spoils the batch": ("POST", EVENTS, BATCH, json.dumps([event("g1"), {"id": 1}]), 400, "malformed-event"),
    "publish to an unknown stream": ("POST", "/streams/order/events", JSON, structured(), 404, "unknown-stream"),
    "bad expectation": ("POST", EVENTS + "?expect=x", JSON, structured(), 400, "bad-p*"),
    "unknown parameter": ("POST", EVENTS + "?position=1", JSON, structured(), 400, "unknown-parameter"),
    "bad position": ("GET", EVENTS + "?from=-1", None, None, 400, "bad-position"),
    "position too great": ("GET", EVENTS + "?from=18446744073709551616", None, None, 400, "bad-position"),
    "bad time in a range": ("GET", EVENTS + "?from=2026-13-01T00:00:00Z", None, None, 400, "bad-position"),
    "range backwards": ("GET", EVENTS + "?from=9&to=3", None, None, 400, "bad-position"),
    "bad limit": ("GET", EVENTS + "?limit=0", None, None, 400, "bad-parameter"),
    "bad cesql": ("GET", EVENTS + "?filter=a%20%3D%20%3D%201", None, None, 400, "bad-filter"),
    "read an unknown stream": ("GET", "/streams/nothing/events", None, None, 404, "unknown-stream"),
    "ill-formed name": ("PUT", "/streams/Bad..Name", "application/json", "{}", 400, "bad-name"),
    "name too long": ("PUT", "/streams/" + "x" * 250, "application/json", "{}", 400, "bad-name"),
    "reserved name": ("PUT", "/streams/_weir.mine", "application/json", "{}", 400, "reserved-name"),
    "publish to the node's own stream": ("POST", "/streams/_weir.audit/events", JSON, structured(), 403, "not-allowed"),
    "unknown member": ("PUT", "/streams/other", "application/json", '{"titel":"x"}', 400, "unknown-member"),
    "unknown member within": ("PUT", "/streams/other", "application/json", '{"retention":{"days":7}}', 400, "unknown-member"),
    "member of the wrong type": ("PUT", "/streams/other", "application/json", '{"title":7}', 400, "bad-member"),
    "bad duration": ("PUT", "/streams/other", "application/json", '{"retention":{"age":"soon"}}', 400, "bad-member"),
    "descriptor is no json": ("PUT", "/streams/other", "application/json", "{,}", 400, "malformed-json"),
    "replace without if-match": ("PUT", "/streams/orders", "application/json", '{"title":"x"}', 428, "if-match-required"),
    "subscription to nothing": ("POST", "/subscriptions", "application/json", '{"protocol":"SSE","config":{"stream":"nothing"}}', 404, "unknown-stream"),
    "unsupported protocol": ("POST", "/subscriptions", "application/json", '{"protocol":"SMOKE","config":{"stream":"orders"}}', 400, "unsupported-protocol"),
    "unsupported dialect": ("POST", "/subscriptions", "application/json",
                            '{"protocol":"SSE","config":{"stream":"orders"},"filters":[{"regex":{"type":"x"}}]}', 400, "unsupported-dialect"),
    "bad filter in a subscription": ("POST", "/subscriptions", "application/json",
                                     '{"protocol":"SSE","config":{"stream":"orders"},"filters":[{"sql":"1 +"}]}', 400, "bad-filter"),
    "unknown member in config": ("POST", "/subscriptions", "application/json",
                                 '{"protocol":"SSE","config":{"stream":"orders","form":"earliest"}}', 400, "unknown-member"),
    "no such subscription": ("GET", "/subscriptions/nothing", None, None, 404, "unknown-subscription"),
    "no such path": ("GET", "/stream", None, None, 404, "not-found"),
    "no such method": ("POST", "/healthz", None, None, 405, "method-not-allowed"),
    "compressed body": ("POST", EVENTS, JSON, structured(), 415, "unsupported-encoding"),
}


@pytest.mark.parametrize("name", TABLE)
def test_table(shared_node, name):
    node = shared_node
    method, path, content_type, body, status, error = TABLE[name]
    before = node.head("orders")["last"]
    headers = {"content-type": content_type} if content_type else {}
    if name == "compressed body":
        headers["content-encoding"] = "gzip"
    answer = node.http.request(method, path, headers=headers, content=body)
    if error.endswith("*"):
        error = answer.json()["type"].removeprefix("urn:weir:error:") if answer.json()["type"].startswith(f"urn:weir:error:{error[:-1]}") else error
    if error == "if-match-required" and answer.status_code == 409:
        status = 409
    found = problem(answer, status, error)
    # A published `orders` stays as it was, and every detail is short and tells no secret of the node.
    assert node.head("orders")["last"] == before, "a refused call had an effect"
    assert str(node.data) not in answer.text and len(answer.text) < 4000
    if error == "unknown-member":
        assert found["member"], found
    if error == "bad-filter":
        assert {"line", "column", "expected"} <= set(found), found
    if error in ("event-too-large", "attributes-too-large", "batch-too-large", "too-many-events"):
        assert found["limit"] > 0, found


def test_near_matches(shared_node):
    node = shared_node
    assert "orders" in problem(node.http.get("/streams/ordrs"), 404, "unknown-stream")["near"]
    answer = node.http.put("/streams/other", json={"titel": "x"})
    assert problem(answer, 400, "unknown-member")["nearest"] == "title"
    answer = node.http.get("/streams/orders/events", params={"form": 1})
    assert problem(answer, 400, "unknown-parameter")["nearest"] == "from"


def test_credentials(make_node):
    node = make_node()
    publisher = node.token("publisher", "--streams", "orders")
    owner = node.token("owner")
    node.start()
    node.http.headers["authorization"] = f"Bearer {owner}"
    node.create("orders")
    node.create("other")
    body, headers = structured(), {"content-type": JSON}
    with node.client() as nobody, node.client("weir_nonsense") as wrong, node.client(publisher) as limited:
        assert nobody.post(EVENTS, content=body, headers=headers).status_code in (401, 404)
        problem(wrong.post(EVENTS, content=body, headers=headers), 401, "bad-credential")
        assert "www-authenticate" in wrong.get("/streams/orders").headers
        assert limited.post(EVENTS, content=body, headers=headers).is_success
        assert limited.post("/streams/other/events", content=body, headers=headers).status_code in (403, 404)
        answer = limited.delete("/streams/orders")
        assert problem(answer, 403, "not-allowed")["needed"]


def test_conflicts(node):
    node.create("orders")
    node.publish("orders", [event("1")])
    etag = node.http.get("/streams/orders").headers["etag"]
    answer = node.http.put("/streams/orders", json={"title": "a"}, headers={"if-match": etag})
    assert answer.is_success, answer.text
    problem(node.http.put("/streams/orders", json={"title": "b"}, headers={"if-match": etag}), 412, "precondition-failed")
    problem(node.http.put("/streams/orders", json={}, headers={"if-none-match": "*"}), 412, "precondition-failed")
    answer = node.http.delete("/streams/orders")
    body = problem(answer, 409, "confirmation-required")
    assert body["effects"] and body["confirm"]
    answer = node.http.delete("/streams/orders", params={"confirm": body["confirm"]})
    assert answer.is_success, answer.text
    assert node.http.get("/streams/orders").status_code in (404, 410)
    assert node.http.get("/streams/orders/events").status_code in (404, 410)


def test_an_open_node_cannot_be_driven_by_a_web_page(node):
    node.create("orders")
    for headers, status, error in [({"host": "evil.example"}, 403, "foreign-host"),
                                   ({"origin": "https://evil.example"}, 403, "foreign-origin"),
                                   ({"host": "evil.example", "origin": "http://evil.example"}, 403, "foreign-host")]:
        answer = node.http.get("/streams", headers=headers)
        problem(answer, status, error)
        answer = node.http.put("/streams/made", json={}, headers=headers)
        problem(answer, status, error)
    assert node.http.get("/streams/made").status_code == 404
    answer = node.http.get("/streams", headers={"origin": node.url})
    assert answer.is_success


def raw(node, request: bytes, seconds: float = 10) -> bytes:
    """Sends bytes, returns what comes back until the node closes or falls silent for `seconds`."""
    got = b""
    with node.connect(seconds) as sock:
        sock.sendall(request)
        try:
            while chunk := sock.recv(65536):
                got += chunk
        except (TimeoutError, ConnectionResetError):
            pass
    return got


def host(node) -> bytes:
    return f"host: 127.0.0.1:{node.port}\r\n".encode()


@pytest.mark.parametrize("request_line", [
    b"GARBAGE\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 100,  # TLS to a plain port
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"x: " + b"y" * 1_000_000 + b"\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"".join(b"x%d: y\r\n" % i for i in range(5000)) + b"\r\n",
    b"POST /streams/orders/events HTTP/1.1\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
    b"POST /streams/orders/events HTTP/1.1\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST /streams/orders/events HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
    b"POST /streams/orders/events HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n\r\n",
    b"POST /streams/orders/events HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
])
def test_requests_that_are_no_http(shared_node, request_line):
    node = shared_node
    began = time.monotonic()
    got = raw(node, request_line.replace(b"HTTP/1.1\r\n", b"HTTP/1.1\r\n" + host(node), 1), 5)
    assert time.monotonic() - began < 5, "the connection was left open"
    assert not got or got.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4", b"HTTP/1.1 505")), got[:200]
    assert node.http.get("/healthz").status_code == 200


def test_paths_that_climb(shared_node):
    node = shared_node
    for path in (b"/streams/../tokens", b"/streams/%2e%2e/tokens", b"//streams", b"/streams/orders%2Fevents", b"/streams/orders%00",
                 b"/streams/orders/events/../..", b"/streams/\xff"):
        got = raw(node, b"GET " + path + b" HTTP/1.1\r\nconnection: close\r\n" + host(node) + b"\r\n", 5)
        assert got.startswith(b"HTTP/1.1 4"), (path, got[:200])


def test_a_declared_length_beyond_the_limit_is_refused_before_it_is_read(shared_node):
    node = shared_node
    began = time.monotonic()
    got = raw(node, b"POST /streams/orders/events HTTP/1.1\r\ncontent-type: application/cloudevents-batch+json\r\n"
              + host(node) + b"content-length: 99999999999\r\n\r\n", 5)
    assert got.startswith(b"HTTP/1.1 413") and b"batch-too-large" in got, got[:300]
    assert time.monotonic() - began < 5


def test_an_endless_chunked_body_is_cut_off(shared_node):
    node = shared_node
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    sent = 0
    with node.connect() as sock:
        sock.sendall(b"POST /streams/orders/events HTTP/1.1\r\ncontent-type: application/cloudevents-batch+json\r\n"
                     + host(node) + b"transfer-encoding: chunked\r\n\r\n")
        try:
            while sent < 200 << 20:
                sock.sendall(chunk)
                sent += 0x10000
        except OSError:
            pass
    assert sent < 64 << 20, "the node read an endless body"


def test_senders_that_never_finish_are_bounded(make_node):
    """Two hundred connections that send a byte now and then neither stop others nor live for ever."""
    node = make_node().start()
    node.create("orders")
    slow = []
    for i in range(200):
        sock = node.connect()
        sock.sendall(b"POST /streams/orders/events HTTP/1.1\r\n" + host(node) +
                     (b"content-type: application/cloudevents+json\r\ncontent-length: 1000\r\n\r\n{" if i % 2 else b"x-slow: "))
        slow.append(sock)
    began, alive = time.monotonic(), list(slow)

    def drip():
        for sock in list(alive):
            try:
                sock.sendall(b" ")
                sock.setblocking(False)
                if sock.recv(4096) == b"":
                    alive.remove(sock)
            except BlockingIOError:
                pass
            except OSError:
                alive.remove(sock)
            finally:
                sock.setblocking(True)
                sock.settimeout(10)
        node.publish("orders", [event(f"during {time.monotonic()}")])
        time.sleep(0.5)
        return not alive

    wait_until(drip, "slow senders to be cut off", 75)
    assert time.monotonic() - began < 75
    for sock in slow:
        sock.close()


def test_many_idle_connections_do_not_matter(node):
    node.create("orders")
    idle = [node.connect() for _ in range(500)]
    try:
        node.publish("orders", [event("1")])
        with Messages(node.http, "/streams/orders/events", from_="earliest") as messages:
            assert [each["id"] for each in messages.events(1)] == ["1"]
    finally:
        for sock in idle:
            sock.close()


def test_pipelined_requests_are_answered_in_order(shared_node):
    node = shared_node
    one = b"GET /streams/orders HTTP/1.1\r\n" + host(node) + b"\r\n"
    two = b"GET /nothing HTTP/1.1\r\n" + host(node) + b"\r\n"
    last = b"GET /healthz HTTP/1.1\r\nconnection: close\r\n" + host(node) + b"\r\n"
    got = raw(node, one + two + last)
    statuses = re.findall(rb"HTTP/1\.1 (\d+)", got)
    assert statuses == [b"200", b"404", b"200"], got


def test_a_body_cut_in_the_middle_stores_nothing(shared_node):
    node = shared_node
    before = node.head("orders")["last"]
    body = json.dumps([event(f"cut{i}") for i in range(100)]).encode()
    with node.connect() as sock:
        sock.sendall(b"POST /streams/orders/events HTTP/1.1\r\ncontent-type: application/cloudevents-batch+json\r\n" + host(node)
                     + b"content-length: %d\r\n\r\n" % len(body) + body[:-10])
        sock.shutdown(socket.SHUT_WR)
        try:
            sock.recv(1000)
        except OSError:
            pass
    time.sleep(0.2)
    assert node.head("orders")["last"] == before


def test_memory_stays_bounded_under_refused_bodies(make_node):
    node = make_node().start()
    node.create("orders")

    def resident() -> int:
        status = open(f"/proc/{node.process.pid}/status").read()
        return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:")))

    body = json.dumps([event(f"m{i}", "x" * 100_000) for i in range(150)])  # just under the batch limit, ids repeat
    done(node.http.post(EVENTS, content=body, headers={"content-type": BATCH}))
    for _ in range(5):
        node.http.post(EVENTS, content=body[:-1], headers={"content-type": BATCH})
    before = resident()
    for _ in range(30):
        node.http.post(EVENTS, content=body[:-1], headers={"content-type": BATCH})
    assert resident() < before + 100_000, f"{before} KiB grew to {resident()} KiB"
