"""The public `cloudevents` package of Python (both its APIs): what it sends is stored as it meant it, and what a node sends
it reads, with equal attributes and equal data bytes."""

import json
from datetime import datetime, timedelta, timezone

import pytest
from cloudevents.core.bindings import http as binding
from cloudevents.core.bindings.http import HTTPMessage
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from cloudevents.v1 import http as classic
from harness import BATCH, NDJSON, Messages, done

FORMAT = JSONFormat()

EVENTS = {
    "object": ({"datacontenttype": "application/json"}, {"a": [1, 2.5, None, True], "text": "grüße \u2028 \U0001f30a"}),
    "text": ({"datacontenttype": "text/plain"}, "plain text\nwith lines\r\nof two kinds"),
    "bytes": ({"datacontenttype": "application/octet-stream"}, bytes(range(256))),
    "json string": ({"datacontenttype": "application/json"}, "just a string"),
    "no data": ({}, None),
    "all attributes": ({"datacontenttype": "application/vnd.acme+json; charset=utf-8", "dataschema": "https://acme.example/s#1",
                        "subject": "ünï \"quoted\" 100%", "time": datetime(2026, 3, 1, 12, 0, 0, 120000, timezone.utc),
                        "partitionkey": "k", "flag": "true"}, {"deep": {"er": []}}),
    "offset time": ({"time": datetime(2026, 3, 1, 12, tzinfo=timezone(timedelta(hours=5, minutes=30)))}, {"a": 1}),
}


def make(name: str) -> CloudEvent:
    attributes, data = EVENTS[name]
    return CloudEvent({"id": f"id of {name}", "source": "/python/sdk", "type": "sdk.test",
                       "time": datetime(2026, 1, 1, tzinfo=timezone.utc), **attributes}, data)


def same(sent: CloudEvent, got: CloudEvent):
    attributes = dict(got.get_attributes())
    assert attributes.pop("flowposition") and attributes.pop("flowtime")
    assert attributes == dict(sent.get_attributes())
    assert got.get_data() == sent.get_data()


@pytest.fixture
def sdk(node):
    node.create("sdk")
    return node


def send(node, message: HTTPMessage) -> dict:
    return done(node.http.post("/streams/sdk/events", headers=message.headers, content=message.body))


def received(node) -> list[CloudEvent]:
    """Everything in the stream, parsed by the package, alike from NDJSON, the batch form and SSE."""
    lines = list(node.read_lines("sdk"))
    events = [FORMAT.read(CloudEvent, line) for line in lines]
    batch = done(node.http.get("/streams/sdk/events", headers={"accept": BATCH}))
    assert [FORMAT.read(CloudEvent, json.dumps(each)).get_attributes() for each in batch] == [e.get_attributes() for e in events]
    with Messages(node.http, "/streams/sdk/events", from_="earliest") as messages:
        pushed = messages.events(len(events))
    assert [FORMAT.read(CloudEvent, json.dumps(each)).get_attributes() for each in pushed] == [e.get_attributes() for e in events]
    return events


@pytest.mark.parametrize("name", EVENTS)
def test_structured(sdk, name):
    send(sdk, binding.to_structured(make(name), FORMAT))
    [got] = received(sdk)
    same(make(name), got)


@pytest.mark.parametrize("name", [name for name in EVENTS if name != "json string"])
def test_binary(sdk, name):
    message = binding.to_binary(make(name), FORMAT)
    send(sdk, message)
    [got] = received(sdk)
    sent = make(name)
    if name == "no data":
        assert got.get_data() is None
    attributes = dict(got.get_attributes())
    attributes.pop("flowposition"), attributes.pop("flowtime")
    assert attributes == dict(sent.get_attributes())
    # The bytes that the package put on the wire are the bytes that any reader gets.
    data = got.get_data()
    if isinstance(data, bytes):
        assert data == message.body
    elif isinstance(data, str):
        assert data.encode() == message.body
    elif data is not None:
        assert data == sent.get_data()


def test_batch_of_everything(sdk):
    batch = b"[" + b",".join(FORMAT.write(make(name)) for name in EVENTS) + b"]"
    answer = done(sdk.http.post("/streams/sdk/events", headers={"content-type": BATCH}, content=batch))
    assert answer["count"] == len(EVENTS)
    for name, got in zip(EVENTS, received(sdk), strict=True):
        same(make(name), got)


def test_what_came_out_goes_in_again_elsewhere(sdk):
    """Relaying by the package keeps everything, the first node's position included: it is only an attribute by then."""
    for name in EVENTS:
        send(sdk, binding.to_structured(make(name), FORMAT))
    sdk.create("relay")
    for line in list(sdk.read_lines("sdk")):
        done(sdk.http.post("/streams/relay/events", headers={"content-type": "application/cloudevents+json"}, content=line))
    for name, line in zip(EVENTS, sdk.read_lines("relay"), strict=True):
        same(make(name), FORMAT.read(CloudEvent, line))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_classic_api(sdk):
    sent = classic.CloudEvent({"source": "/classic", "type": "t", "id": "c1", "time": "2026-01-01T00:00:00Z", "ext": "1"}, {"n": 1})
    for to in (classic.to_binary, classic.to_structured):
        headers, body = to(sent)
        done(sdk.http.post("/streams/sdk/events", headers=headers, content=body))
    lines = list(sdk.read_lines("sdk"))
    assert len(lines) == 1, "the same event in another form is a duplicate"
    got = classic.from_http({"content-type": "application/cloudevents+json"}, lines[0])
    assert got.data == {"n": 1} and got["ext"] == "1" and got["id"] == "c1"
    assert {"flowposition", "flowtime"} <= set(got.get_attributes())


def test_ndjson_is_read_line_by_line(sdk):
    for name in EVENTS:
        send(sdk, binding.to_structured(make(name), FORMAT))
    with sdk.http.stream("GET", "/streams/sdk/events", headers={"accept": NDJSON}) as answer:
        got = [FORMAT.read(CloudEvent, line) for line in answer.iter_lines() if line]
    assert len(got) == len(EVENTS)
