"""Reading: ranges, times, filters, server-sent events, STREAM."""

import json
import struct
import time

import pytest
from harness import (BATCH, NDJSON, PROTO_BATCH, SSE, STREAM, Messages, done, event, frames, next_link, problem, proto_batch,
                     proto_event, proto_fields)


@pytest.fixture
def numbers(node):
    """A stream `numbers` of 250 events with ids n1 … n250."""
    node.create("numbers", access="private")
    node.publish("numbers", [event(f"n{i}", {"i": i}, subject=f"s{i % 5}", even=i % 2 == 0) for i in range(1, 251)])
    return node


def ids(events) -> list[int]:
    return [int(each["id"][1:]) for each in events]


@pytest.mark.parametrize("query,expected", [
    ({}, range(1, 251)),
    ({"from_": "earliest"}, range(1, 251)),
    ({"from_": 200}, range(200, 251)),
    ({"from_": 10, "to": 20}, range(10, 21)),
    ({"from_": 250, "to": 250}, range(250, 251)),
    ({"to": 3}, range(1, 4)),
    ({"from_": 251}, range(0)),
])
def test_ranges_are_inclusive(numbers, query, expected):
    assert ids(numbers.read("numbers", **query)) == list(expected)


def test_a_position_far_beyond_the_head_is_an_error_that_says_where_the_head_is(numbers):
    assert problem(numbers.http.get("/streams/numbers/events", params={"from": 100_000}), 400, "bad-position")["head"] == 250


def test_latest_is_what_comes_next(numbers):
    assert numbers.read("numbers", from_="latest") == []


def test_limit_pages_by_link(numbers):
    seen, url, params, pages = [], "/streams/numbers/events", {"limit": 100}, 0
    while url:
        answer = numbers.http.get(url, params=params, headers={"accept": NDJSON})
        page = [json.loads(line) for line in answer.text.splitlines()]
        assert len(page) <= 100
        seen += ids(page)
        url, params, pages = next_link(answer), None, pages + 1
        assert pages < 10
    assert seen == list(range(1, 251))


def test_a_range_by_time(numbers):
    time.sleep(0.05)
    numbers.publish("numbers", [event("n251")])
    [last] = numbers.read("numbers", from_=251)
    assert ids(numbers.read("numbers", from_=last["flowtime"])) == [251]
    assert ids(numbers.read("numbers", from_="2001-01-01T00:00:00Z", to=2)) == [1, 2]
    assert numbers.read("numbers", from_="2999-01-01T00:00:00Z") == []


def test_forms_by_accept(numbers):
    for accept, count in [(BATCH, lambda b: len(json.loads(b))), (NDJSON, lambda b: b.count(b"\n")),
                          (PROTO_BATCH, lambda b: sum(n == 1 for n, _ in proto_fields(b)))]:
        answer = numbers.http.get("/streams/numbers/events", headers={"accept": accept})
        assert answer.headers["content-type"].split(";")[0] == accept
        assert count(answer.content) == 250
    problem(numbers.http.get("/streams/numbers/events", headers={"accept": "image/png"}), 406, "not-acceptable")


def test_filters_on_a_range(numbers):
    assert ids(numbers.read("numbers", filter="subject = 's3' AND even = TRUE", to=30)) == [8, 18, 28]
    assert len(numbers.read("numbers", filter="subject LIKE 's%'")) == 250
    answer = numbers.http.get("/streams/numbers/events", params={"filter": "subject = = 's3'"})
    body = problem(answer, 400, "bad-filter")
    assert body["line"] == 1 and body["column"] >= 11 and body["expected"], body


def test_positions_and_times_never_go_backwards(numbers):
    got = numbers.read("numbers")
    times = [each["flowtime"] for each in got]
    assert times == sorted(times)


def test_sse_from_the_start(numbers):
    with Messages(numbers.http, "/streams/numbers/events", from_="earliest") as messages:
        opening = next(messages)
        assert opening["event"] == "heartbeat"
        heartbeat = json.loads(opening["data"])
        assert heartbeat["head"] == 250 and len(heartbeat["history"]) == 16 and "at" in heartbeat
        assert ids(messages.events(250)) == list(range(1, 251))
        numbers.publish("numbers", [event("n251")])
        assert ids(messages.events(1)) == [251]
        assert messages.last_id == "251"


def test_sse_starts_at_latest_and_is_pushed(numbers):
    with Messages(numbers.http, "/streams/numbers/events", from_="latest") as messages:
        messages.until("heartbeat")
        began = time.monotonic()
        numbers.publish("numbers", [event("n251")])
        assert ids(messages.events(1)) == [251]
        assert time.monotonic() - began < 2


def test_sse_resumes_after_last_event_id(numbers):
    with Messages(numbers.http, "/streams/numbers/events", last_event_id="247") as messages:
        assert ids(messages.events(3)) == [248, 249, 250]


def test_sse_filter_moves_on_by_heartbeats(numbers):
    with Messages(numbers.http, "/streams/numbers/events", from_="earliest", filter="id = 'n7'") as messages:
        assert ids(messages.events(1)) == [7]
        deadline = time.monotonic() + 18
        for message in messages:
            if message["event"] == "heartbeat" and json.loads(message["data"])["at"] == 250:
                assert message["id"] == "250"
                return
            assert time.monotonic() < deadline, "no heartbeat said that all 250 were looked at"


def test_sse_heartbeats_at_least_every_15_seconds(numbers):
    with Messages(numbers.http, "/streams/numbers/events", from_="latest") as messages:
        messages.until("heartbeat")
        began = time.monotonic()
        messages.until("heartbeat")
        assert time.monotonic() - began <= 15.5


def test_a_resume_in_another_history_is_noticed(numbers):
    history = numbers.head("numbers")["history"]
    with Messages(numbers.http, "/streams/numbers/events", last_event_id="249", history=history) as messages:
        assert ids(messages.events(1)) == [250]
    with Messages(numbers.http, "/streams/numbers/events", last_event_id="249", history="00000000000000aa") as messages:
        for message in messages:
            assert message["event"] != "message", "events of another history came unasked"
            if message["event"] == "notice":
                notice = json.loads(message["data"])
                assert notice["history"] == {"was": "00000000000000aa", "now": history}
                return


def open_stream(node, path: str, **query):
    return node.http.stream("GET", path, params={k.rstrip("_"): v for k, v in query.items()}, headers={"accept": STREAM})


def next_frames(response, enough):
    """Frames until `enough(list)`; (kind, payload) each."""
    body, found = b"", []
    for chunk in response.iter_raw():
        body += chunk
        found = list(frames(body))
        if enough(found):
            return found
    raise AssertionError(f"the connection ended after {len(found)} frames")


def parse_run(payload: bytes) -> dict:
    length = payload[0]
    name, rest = payload[1:1 + length].decode(), payload[1 + length:]
    history, first, count, time_ms, encoding = struct.unpack(">QQIQB", rest[:29])
    events = [dict(proto_fields(value)) for number, value in proto_fields(rest[29:]) if number == 1]
    return {"stream": name, "history": history, "first": first, "count": count, "time": time_ms, "encoding": encoding,
            "events": events}


def test_stream_frames(numbers):
    history = int(numbers.head("numbers")["history"], 16)

    def all_there(found):
        return sum(parse_run(p)["count"] for kind, p in found if kind == 1) >= 250

    with open_stream(numbers, "/streams/numbers/events", from_="earliest") as response:
        assert response.status_code == 200 and response.headers["content-type"] == STREAM
        found = next_frames(response, all_there)
    kind, payload = found[0]
    assert kind == 2 and json.loads(payload)["head"] == 250
    at, seen = 1, []
    for kind, payload in found:
        if kind == 1:
            run = parse_run(payload)
            assert (run["stream"], run["history"], run["encoding"], run["first"]) == ("numbers", history, 1, at)
            assert run["count"] == len(run["events"])
            at += run["count"]
            seen += [int(each[1].decode()[1:]) for each in run["events"]]
    assert seen == list(range(1, 251))


def test_stream_filter_sends_contiguous_runs(numbers):
    with open_stream(numbers, "/streams/numbers/events", from_="earliest", filter="EXISTS even AND even") as response:
        found = next_frames(response, lambda f: sum(parse_run(p)["count"] for k, p in f if k == 1) >= 125)
    runs = [parse_run(p) for kind, p in found if kind == 1]
    assert [run["first"] for run in runs] == list(range(2, 251, 2)) and all(run["count"] == 1 for run in runs)


def test_stored_protobuf_leaves_unchanged(node):
    node.create("raw")
    body = proto_batch([proto_event(f"p{i}", binary=bytes([i]), zeta="z", alpha="a") for i in range(20)])
    done(node.http.post("/streams/raw/events", headers={"content-type": PROTO_BATCH}, content=body))
    with open_stream(node, "/streams/raw/events", from_="earliest") as response:
        found = next_frames(response, lambda f: any(kind == 1 for kind, _ in f))
    payload = next(p for kind, p in found if kind == 1)
    assert payload.endswith(body)


def test_retention_by_count_announces_what_is_gone(node):
    node.create("short", retention={"count": 10})
    for i in range(10):
        node.publish("short", [event(f"n{i * 10 + j}") for j in range(10)])
    first = node.head("short")["first"]
    assert first >= 1
    with Messages(node.http, "/streams/short/events", last_event_id="0") as messages:
        for message in messages:
            if message["event"] == "notice":
                notice = json.loads(message["data"])
                assert notice["reason"] == "retention" and notice["skipped"]["from"] == 1
            if message["event"] == "message":
                assert int(json.loads(message["data"])["flowposition"]) == (notice["skipped"]["to"] + 1 if first > 1 else 1)
                return


def test_many_tails_of_one_stream(numbers):
    connections = [Messages(numbers.http, "/streams/numbers/events", from_="latest") for _ in range(30)]
    try:
        for each in connections:
            each.until("heartbeat")
        numbers.publish("numbers", [event(f"n{i}") for i in range(251, 301)])
        for each in connections:
            assert ids(each.events(50)) == list(range(251, 301))
    finally:
        for each in connections:
            each.close()


def test_a_consumer_that_reads_nothing_disturbs_nobody(numbers):
    """One connection is opened and never read while megabytes go by; others and the publisher don't notice."""
    with numbers.connect() as lazy:
        lazy.sendall(f"GET /streams/numbers/events?from=latest HTTP/1.1\r\nhost: 127.0.0.1:{numbers.port}\r\n"
                     f"accept: {SSE}\r\n\r\n".encode())
        lazy.recv(100)
        with Messages(numbers.http, "/streams/numbers/events", from_="latest") as messages:
            messages.until("heartbeat")
            for batch in range(40):
                numbers.publish("numbers", [event(f"n{1000 + batch * 10 + i}", "x" * 50_000) for i in range(10)])
                assert ids(messages.events(10)) == list(range(1000 + batch * 10, 1010 + batch * 10))
