"""Publishing in every HTTP form, by curl: what goes in comes out with the same attributes and data bytes."""

import base64
import json
import subprocess

import pytest
from harness import (BATCH, JSON, NDJSON, PROTO, PROTO_BATCH, data_of, done, event, problem, proto_batch, proto_event,
                     proto_fields)


def curl(node, path: str, *args: str, body: bytes | None = None) -> tuple[int, dict]:
    """Status and JSON of one call made by curl."""
    command = ["curl", "--silent", "--show-error", "--max-time", "20", "--write-out", "\n%{http_code}", *args]
    if body is not None:
        command += ["--data-binary", "@-"]
    out = subprocess.run([*command, f"{node.url}{path}"], input=body or b"", capture_output=True, timeout=30)
    assert out.returncode == 0, out.stderr.decode()
    text, _, status = out.stdout.rpartition(b"\n")
    return int(status), json.loads(text) if text else {}


@pytest.fixture
def orders(node):
    node.create("orders")
    return node


def header(name: str, value: str) -> tuple[str, str]:
    return "-H", f"{name}: {value}"


def stored(answer: tuple[int, dict], first: int, last: int) -> dict:
    status, body = answer
    assert status in (200, 201), body
    assert (body["first"], body["last"], body["count"]) == (first, last, last - first + 1), body
    assert body["durability"] == "fsync" and len(body["history"]) == 16, body
    return body


def test_binary(orders):
    data = b'{"total": 1.50,\n "currency":"EUR"}'
    answer = curl(orders, "/streams/orders/events", *header("ce-specversion", "1.0"), *header("ce-id", "b-1"),
                  *header("ce-source", "/shop"), *header("ce-type", "shop.order.placed"),
                  *header("ce-subject", "order%20%E2%82%AC1"), *header("ce-time", "2026-03-01T12:00:00.120+01:00"),
                  *header("ce-partner", "acme"), *header("content-type", "application/json"), body=data)
    stored(answer, 1, 1)
    [line] = orders.read_lines("orders")
    got = json.loads(line)
    assert got["subject"] == "order €1"
    assert got["time"] == "2026-03-01T12:00:00.120+01:00"
    assert got["partner"] == "acme" and got["datacontenttype"] == "application/json"
    assert got["flowposition"] == "1" and got["flowtime"].endswith("Z")
    # NDJSON has no room for the line feed in these bytes, and nobody may change them.
    assert data_of(got) == data if "data_base64" in got else json.loads(data) == got["data"]
    batch = done(orders.http.get("/streams/orders/events", headers={"accept": BATCH}))
    assert [each["id"] for each in batch] == ["b-1"]


def test_binary_bytes_that_are_no_json(orders):
    data = bytes(range(256)) * 3
    answer = curl(orders, "/streams/orders/events", *header("ce-specversion", "1.0"), *header("ce-id", "raw"),
                  *header("ce-source", "/cam"), *header("ce-type", "frame"), *header("content-type", "image/png"), body=data)
    stored(answer, 1, 1)
    [got] = orders.read("orders")
    assert base64.b64decode(got["data_base64"]) == data


def test_binary_without_data(orders):
    answer = curl(orders, "/streams/orders/events", "-X", "POST", *header("ce-specversion", "1.0"), *header("ce-id", "none"),
                  *header("ce-source", "/shop"), *header("ce-type", "shop.opened"))
    stored(answer, 1, 1)
    [got] = orders.read("orders")
    assert "data" not in got and "data_base64" not in got


def test_structured(orders):
    body = (b'{"specversion":"1.0","id":"s-1","source":"/shop","type":"t","datacontenttype":"application/json",'
            b'"flag":true,"count":-7,"data":{"b":1.10,"a":[1e3,null],"text":"\\u20ac"}}')
    stored(curl(orders, "/streams/orders/events", *header("content-type", JSON), body=body), 1, 1)
    [line] = orders.read_lines("orders")
    assert b'{"b":1.10,"a":[1e3,null],"text":"\\u20ac"}' in line, "the raw slice of data is kept to the byte"
    got = json.loads(line)
    assert got["flag"] is True and got["count"] == -7


def test_structured_null_is_not_absent(orders):
    stored(curl(orders, "/streams/orders/events", *header("content-type", JSON),
                body=b'{"specversion":"1.0","id":"1","source":"/s","type":"t","data":null}'), 1, 1)
    [got] = orders.read("orders")
    assert "data" in got and got["data"] is None


def test_batch(orders):
    events = [event(f"e{i}", {"i": i}) for i in range(1, 101)]
    stored(curl(orders, "/streams/orders/events", *header("content-type", BATCH), body=json.dumps(events).encode()), 1, 100)
    got = orders.read("orders")
    assert [each["id"] for each in got] == [each["id"] for each in events]
    assert [each["flowposition"] for each in got] == [str(i) for i in range(1, 101)]
    assert [each["data"]["i"] for each in got] == list(range(1, 101))


def test_protobuf(orders):
    one = proto_event("p-1", text='{"a":1}', datacontenttype="application/json", flag=True, count=-7, blob=b"\x00\xff",
                      subject="s", time=1_700_000_000)
    stored(curl(orders, "/streams/orders/events", *header("content-type", PROTO), body=one), 1, 1)
    [got] = orders.read("orders")
    assert got["data"] == {"a": 1} and got["flag"] is True and got["count"] == -7 and got["subject"] == "s"
    assert got["blob"] == base64.b64encode(b"\x00\xff").decode()
    assert got["time"] == "2023-11-14T22:13:20Z"


def test_protobuf_batch_and_back(orders):
    sent = [proto_event(f"p{i}", binary=b"\x00" * i, subject=str(i)) for i in range(1, 51)]
    stored(curl(orders, "/streams/orders/events", *header("content-type", PROTO_BATCH), body=proto_batch(sent)), 1, 50)
    answer = orders.http.get("/streams/orders/events", headers={"accept": PROTO_BATCH})
    assert answer.headers["content-type"].split(";")[0] == PROTO_BATCH
    got = [dict(proto_fields(value)) for number, value in proto_fields(answer.content) if number == 1]
    assert [each[1].decode() for each in got] == [f"p{i}" for i in range(1, 51)]
    assert [each[6] for each in got[1:]] == [b"\x00" * i for i in range(2, 51)]


def test_forms_mix_in_one_stream(orders):
    curl(orders, "/streams/orders/events", *header("content-type", JSON), body=json.dumps(event("1", 1)).encode())
    curl(orders, "/streams/orders/events", *header("content-type", PROTO), body=proto_event("2", text="2"))
    curl(orders, "/streams/orders/events", *header("content-type", BATCH), body=json.dumps([event("3"), event("4")]).encode())
    curl(orders, "/streams/orders/events", *header("ce-specversion", "1.0"), *header("ce-id", "5"), *header("ce-source", "/tests"),
         *header("ce-type", "t"), *header("content-type", "text/plain"), body="grüße".encode())
    got = orders.read("orders")
    assert [each["id"] for each in got] == ["1", "2", "3", "4", "5"]
    assert got[4]["data"] == "grüße"


def test_duplicates_are_stored_once(orders):
    body = json.dumps([event("a", 1), event("b", 2)]).encode()
    first = stored(curl(orders, "/streams/orders/events", *header("content-type", BATCH), body=body), 1, 2)
    assert first["duplicates"] == 0
    status, again = curl(orders, "/streams/orders/events?positions=1", *header("content-type", BATCH), body=body)
    assert status in (200, 201)
    assert (again["first"], again["last"], again["count"], again["duplicates"]) == (None, None, 0, 2)
    assert again["positions"] == [1, 2]
    mixed = json.dumps([event("b", 2), event("c", 3)]).encode()
    status, mixed = curl(orders, "/streams/orders/events?positions=1", *header("content-type", BATCH), body=mixed)
    assert (mixed["first"], mixed["last"], mixed["count"], mixed["duplicates"]) == (3, 3, 1, 1)
    assert mixed["positions"] == [2, 3]
    assert [each["id"] for each in orders.read("orders")] == ["a", "b", "c"]


def test_duplicates_within_one_batch(orders):
    body = json.dumps([event("a", 1), event("a", 1), event("b", 2)]).encode()
    status, answer = curl(orders, "/streams/orders/events?positions=1", *header("content-type", BATCH), body=body)
    assert (answer["count"], answer["duplicates"], answer["positions"]) == (2, 1, [1, 1, 2])


def test_the_same_id_of_another_source_is_another_event(orders):
    orders.publish("orders", [event("a", source="/one"), event("a", source="/two")])
    assert len(orders.read("orders")) == 2


def test_duplicates_survive_a_restart(orders):
    orders.publish("orders", [event("a", 1), event("b", 2)])
    orders.restart()
    again = orders.publish("orders", [event("a", 1), event("b", 2), event("c", 3)])
    assert (again["first"], again["count"], again["duplicates"]) == (3, 1, 2)


def test_expect_appends_only_at_the_head(orders):
    orders.publish("orders", [event("a"), event("b")], expect=0)
    answer = orders.http.post("/streams/orders/events", params={"expect": 1}, headers={"content-type": BATCH},
                              content=json.dumps([event("c")]))
    assert problem(answer, 412, "head-moved")["head"] == 2
    assert orders.publish("orders", [event("c")], expect=2)["first"] == 3


def test_a_batch_is_stored_whole_or_not_at_all(orders):
    bad = [event("1"), event("2"), {"specversion": "1.0", "id": "3"}, event("4")]
    answer = orders.http.post("/streams/orders/events", headers={"content-type": BATCH}, content=json.dumps(bad))
    assert problem(answer, 400, "malformed-event")["index"] == 2
    assert orders.read("orders") == []


def test_an_empty_batch_stores_nothing(orders):
    answer = orders.http.post("/streams/orders/events", headers={"content-type": BATCH}, content="[]")
    body = done(answer)
    assert (body["first"], body["last"], body["count"]) == (None, None, 0)


def test_plain_bodies_become_events(node):
    node.create("status", plain={"type": "acme.status.v1", "source": "/tms", "id": {"data": "/id"}, "time": {"data": "/ts"}},
                lift={"partner": "/partner_id"})
    body = b'{"id":"x-17","ts":"2026-03-01T12:00:00Z","partner_id":"acme","state":"LOADED"}'
    stored(curl(node, "/streams/status/events", *header("content-type", "application/json"), body=body), 1, 1)
    [got] = node.read("status")
    assert (got["id"], got["type"], got["source"], got["time"]) == ("x-17", "acme.status.v1", "/tms", "2026-03-01T12:00:00Z")
    assert got["partner"] == "acme"
    assert got["data"]["state"] == "LOADED"
    again = node.http.post("/streams/status/events", headers={"content-type": "application/json"}, content=body)
    assert done(again)["duplicates"] == 1


def test_a_plain_body_without_a_rule_names_the_headers(orders):
    answer = orders.http.post("/streams/orders/events", headers={"content-type": "application/json"}, content=b'{"a":1}')
    missing = problem(answer, 400, "missing-attributes")["missing"]
    assert {"ce-id", "ce-source", "ce-type"} <= {name.lower() for name in missing}


def test_lift_never_overrides_the_creator(node):
    node.create("status", lift={"partner": "/partner_id"})
    node.publish("status", [event("1", {"partner_id": "data"}, partner="creator"), event("2", {"partner_id": "data"})])
    assert [each["partner"] for each in node.read("status")] == ["creator", "data"]


def test_chunked_bodies(orders):
    answer = curl(orders, "/streams/orders/events", *header("content-type", JSON), *header("transfer-encoding", "chunked"),
                  body=json.dumps(event("1", "x" * 100_000)).encode())
    stored(answer, 1, 1)


def test_written_streams_say_so(node):
    node.create("fast", durability="written")
    assert node.publish("fast", [event("1")])["durability"] == "written"


def test_http2_with_prior_knowledge(orders):
    answer = curl(orders, "/streams/orders/events", "--http2-prior-knowledge", *header("content-type", JSON),
                  body=json.dumps(event("1")).encode())
    stored(answer, 1, 1)


def test_ndjson_is_one_event_a_line(orders):
    orders.publish("orders", [event("1", "line\nfeed\u2028 separator"), event("2", {"a": "b"})])
    answer = orders.http.get("/streams/orders/events", headers={"accept": NDJSON})
    assert answer.headers["content-type"].split(";")[0] == NDJSON
    lines = answer.text.split("\n")
    assert lines[-1] == "" and len(lines) == 3
    assert [json.loads(line)["id"] for line in lines[:-1]] == ["1", "2"]
