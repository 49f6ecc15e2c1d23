"""Two parties over HTTP: weatherflow shares, acme asks, mallory tries.

weatherflow's node has tokens, so nobody is anybody without one. acme has no account there: it asks without a credential,
holds the secret of its request, is accepted and collects its grant."""

import json
import socket
import struct
import threading
import time
from datetime import datetime, timedelta, timezone

import httpx
import pytest
from harness import SSE, Messages, Tail, done, event, problem, wait_until


@pytest.fixture
def weatherflow(make_node):
    """weatherflow's node; `node.http` is its owner, `node.publisher` may only publish."""
    node = make_node()
    node.owner_token = node.token("owner")
    node.publisher_token = node.token("publisher", "--streams", "weather.>")
    node.start()
    node.http.headers["authorization"] = f"Bearer {node.owner_token}"
    node.publisher = node.client(node.publisher_token)
    node.stranger = node.client()
    for name, access in [("weather.ny", "approval"), ("weather.open", "open"), ("weather.secret", "private")]:
        node.create(name, access=access, title=f"Weather, {access}", types=["us.weather.observation.v1"])
    return node


def ask(client: httpx.Client, stream: str = "weather.ny", protocol: str = "SSE", **config) -> httpx.Response:
    return client.post("/subscriptions", json={
        "protocol": protocol, "config": {"stream": stream, "contact": "dev@acme.example", "note": "to plan flights", **config}})


def bearer(secret: str) -> dict:
    return {"authorization": f"Bearer {secret}"}


def request(node, **config) -> tuple[str, str]:
    """acme's request: its id and its secret."""
    answer = ask(node.stranger, **config)
    assert answer.status_code == 202, answer.text
    body = answer.json()
    assert body["state"] == "requested" and body["secret"], body
    return body["id"], body["secret"]


def accepted(node, imposed: dict | None = None, **config) -> tuple[str, httpx.Client]:
    """An accepted subscription: its id and acme's client with the grant."""
    id, secret = request(node, **config)
    done(node.http.post(f"/subscriptions/{id}/accept", json={"reason": "welcome", **(imposed or {})}))
    body = done(node.stranger.get(f"/subscriptions/{id}", headers=bearer(secret)))
    assert body["state"] == "active", body
    return id, node.client(body["grant"])


def observe(node, first: int, count: int, stream: str = "weather.ny"):
    answer = node.publisher.post(f"/streams/{stream}/events", headers={"content-type": "application/cloudevents-batch+json"},
                                 content=json.dumps([
                                     event(f"o{i}", {"temp": i}, type="us.weather.observation.v1", station="EWR" if i % 2 else "JFK")
                                     for i in range(first, first + count)]))
    return done(answer)


def ids(events) -> list[int]:
    return [int(each["id"][1:]) for each in events]


def test_ask_decide_receive(weatherflow):
    node = weatherflow
    observe(node, 1, 5)
    id, secret = request(node, **{"from": "earliest"})

    # The request alone opens nothing, and its secret reads nothing but the request.
    body = done(node.stranger.get(f"/subscriptions/{id}", headers=bearer(secret)))
    assert body["state"] == "requested" and "grant" not in body
    assert "secret" not in body, "a secret is shown once"
    problem(node.stranger.get(f"/subscriptions/{id}/events", headers={**bearer(secret), "accept": "application/x-ndjson"}),
            403, "not-decided")

    # The owner sees who asks and why, and looks at what they would get.
    listed = done(node.http.get("/subscriptions", params={"state": "requested"}))
    [mine] = [each for each in next(v for v in listed.values() if isinstance(v, list)) if each["id"] == id]
    assert mine["config"]["contact"] == "dev@acme.example" and mine["config"]["note"] == "to plan flights"
    preview = node.http.get(f"/subscriptions/{id}/preview", params={"limit": 3})
    assert preview.status_code == 200 and len(preview.json()) == 3

    # acme waits for the decision on a held request; it arrives at once.
    answers = []

    def wait():
        with node.client(secret) as acme:
            answers.append((acme.get(f"/subscriptions/{id}", headers={"prefer": "wait=30"}, timeout=40), time.monotonic()))

    waiting = threading.Thread(target=wait)
    waiting.start()
    time.sleep(0.3)
    assert not answers
    decided = time.monotonic()
    done(node.http.post(f"/subscriptions/{id}/accept", json={"reason": "welcome"}))
    waiting.join(10)
    answer, at = answers[0]
    assert at - decided < 2
    body = done(answer)
    assert body["state"] == "active" and body["detail"] == "welcome"
    assert body["profile"]["subscription"] == id and body["profile"]["flow"] == "1.0"
    grant = body["grant"]

    # Collected once.
    assert "grant" not in done(node.stranger.get(f"/subscriptions/{id}", headers=bearer(secret)))

    acme = node.client(grant)
    with Messages(acme, f"/subscriptions/{id}/events") as messages:
        assert ids(messages.events(5)) == [1, 2, 3, 4, 5]
        observe(node, 6, 2)
        assert ids(messages.events(2)) == [6, 7]


def test_the_cursor_is_kept_by_the_node(weatherflow):
    node = weatherflow
    observe(node, 1, 10)
    id, acme = accepted(node, **{"from": "earliest"})
    with Messages(acme, f"/subscriptions/{id}/events") as messages:
        messages.events(10)
    done(acme.post(f"/subscriptions/{id}/ack", json={"ack": 6}))
    with Messages(acme, f"/subscriptions/{id}/events") as messages:
        assert ids(messages.events(4)) == [7, 8, 9, 10]
    node.restart()
    acme = node.client(acme.headers["authorization"].removeprefix("Bearer "))
    assert done(acme.get(f"/subscriptions/{id}"))["cursor"] == 6, "graceful stop saves cursors"
    with Messages(acme, f"/subscriptions/{id}/events") as messages:
        assert ids(messages.events(4)) == [7, 8, 9, 10]
    # Last-Event-ID moves it too.
    with Messages(acme, f"/subscriptions/{id}/events", last_event_id="9") as messages:
        assert ids(messages.events(1)) == [10]
    assert done(acme.get(f"/subscriptions/{id}"))["cursor"] == 9


def test_ack_sent_follows_what_was_written(weatherflow):
    node = weatherflow
    observe(node, 1, 10)
    id, acme = accepted(node, **{"from": "earliest", "ack": "sent"})
    with Messages(acme, f"/subscriptions/{id}/events") as messages:
        messages.events(10)
        wait_until(lambda: done(acme.get(f"/subscriptions/{id}"))["cursor"] == 10, "the cursor to follow")


def test_a_request_may_wait_on_its_connection(weatherflow):
    node = weatherflow
    observe(node, 1, 3)
    id, secret = request(node, **{"from": "earliest"})
    with node.client(secret) as acme, Messages(acme, f"/subscriptions/{id}/events") as messages:
        assert messages.until("state")["state"] == "requested"
        done(node.http.post(f"/subscriptions/{id}/accept", json={}))
        assert messages.until("state")["state"] in ("accepted", "active")


def test_what_the_producer_imposes_narrows(weatherflow):
    node = weatherflow
    observe(node, 1, 20)
    id, acme = accepted(node, {"filters": [{"exact": {"station": "EWR"}}]}, **{"from": "earliest"})
    with Messages(acme, f"/subscriptions/{id}/events") as messages:
        got = messages.events(10)
    assert ids(got) == list(range(1, 21, 2))
    body = done(acme.get(f"/subscriptions/{id}"))
    assert body["imposed"]["filters"] == [{"exact": {"station": "EWR"}}]
    # Nor does any other way out give more.
    answer = acme.get("/streams/weather.ny/events", headers={"accept": "application/x-ndjson"})
    assert answer.status_code in (401, 403, 404), "a grant is for its subscription alone"


def test_an_imposed_rate_paces(weatherflow):
    node = weatherflow
    observe(node, 1, 60)
    id, acme = accepted(node, {"rate": "20/s"}, **{"from": "earliest"})
    began = time.monotonic()
    with Messages(acme, f"/subscriptions/{id}/events") as messages:
        messages.events(60)
    took = time.monotonic() - began
    assert 1.0 <= took <= 6.0, f"60 events at 20/s took {took:.2f} s"


def test_reject_says_why_and_is_final(weatherflow):
    node = weatherflow
    id, secret = request(node)
    done(node.http.post(f"/subscriptions/{id}/reject", json={"reason": "ask our sales desk"}))
    body = done(node.stranger.get(f"/subscriptions/{id}", headers=bearer(secret)))
    assert (body["state"], body["reason"], body["detail"]) == ("closed", "rejected", "ask our sales desk"), body
    problem(node.http.post(f"/subscriptions/{id}/accept", json={}), 409, "wrong-state")
    answer = node.stranger.get(f"/subscriptions/{id}/events", headers={**bearer(secret), "accept": SSE})
    problem(answer, 410, "subscription-closed")


def test_suspend_stops_within_a_second_and_resume_goes_on_where_it_was(weatherflow):
    node = weatherflow
    id, acme = accepted(node, **{"from": "earliest", "ack": "sent"})
    tail = Tail(node.url, f"/subscriptions/{id}/events", token=acme.headers["authorization"].removeprefix("Bearer "))
    tail.start()
    observe(node, 1, 5)
    tail.wait_for(5)
    done(node.http.post(f"/subscriptions/{id}/suspend", json={"reason": "maintenance"}))
    time.sleep(1.0)
    observe(node, 6, 5)
    time.sleep(1.0)
    assert [p for p, _ in tail.received] == [1, 2, 3, 4, 5]
    body = done(acme.get(f"/subscriptions/{id}"))
    assert (body["state"], body["by"], body["detail"]) == ("suspended", "producer", "maintenance"), body
    done(node.http.post(f"/subscriptions/{id}/resume", json={}))
    tail.wait_for(10)
    tail.stop()
    assert [p for p, _ in tail.received] == list(range(1, 11)) and not tail.problems


def test_revoke_within_a_second_on_a_live_connection(weatherflow):
    node = weatherflow
    id, acme = accepted(node)
    stop, sent_at = threading.Event(), {}

    def pour():
        i = 1
        while not stop.is_set():
            observe(node, i, 1)
            sent_at[i] = time.monotonic()
            i += 1
            time.sleep(0.01)

    pouring = threading.Thread(target=pour)
    with Messages(acme, f"/subscriptions/{id}/events") as messages:
        messages.until("heartbeat")
        pouring.start()
        try:
            messages.events(20)
            done(node.http.post(f"/subscriptions/{id}/revoke", json={"reason": "terms broken"}))
            revoked = time.monotonic()
            last = 0
            try:
                for message in messages:
                    if message["event"] == "message":
                        last = int(json.loads(message["data"])["id"][1:])
            except httpx.HTTPError:
                pass  # reset rather than drained: as it should be
            ended = time.monotonic()
        finally:
            stop.set()
            pouring.join()
    assert ended - revoked < 1.5, "the connection outlived the grant"
    assert not last or sent_at[last] < revoked + 1.0
    problem(acme.get(f"/subscriptions/{id}/events", headers={"accept": SSE}), 410, "subscription-closed")
    node.restart()
    acme = node.client(acme.headers["authorization"].removeprefix("Bearer "))
    problem(acme.get(f"/subscriptions/{id}/events", headers={"accept": SSE}), 410, "subscription-closed")


def test_revoke_reaches_a_connection_whose_write_blocks(weatherflow):
    """acme stops reading, so that the node can't write; the revocation still takes effect, and nothing published afterwards is
    ever handed over."""
    node = weatherflow
    id, acme = accepted(node, **{"from": "latest"})
    with socket.socket() as lazy:
        lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        lazy.settimeout(10)
        lazy.connect(("127.0.0.1", node.port))
        lazy.sendall(f"GET /subscriptions/{id}/events HTTP/1.1\r\nhost: 127.0.0.1:{node.port}\r\naccept: {SSE}\r\n"
                     f"authorization: {acme.headers['authorization']}\r\n\r\n".encode())
        assert lazy.recv(15).startswith(b"HTTP/1.1 200")
        payload = json.dumps([event(f"big{i}", "x" * 100_000) for i in range(100)])
        done(node.publisher.post("/streams/weather.ny/events", content=payload,
                                 headers={"content-type": "application/cloudevents-batch+json"}))
        time.sleep(0.5)
        done(node.http.post(f"/subscriptions/{id}/revoke", json={"reason": "enough"}))
        time.sleep(1.0)
        observe(node, 1, 1)
        got = b""
        try:
            while chunk := lazy.recv(65536):
                got += chunk
        except (ConnectionResetError, TimeoutError) as error:
            assert not isinstance(error, TimeoutError), "the connection is still open"
    assert b'"o1"' not in got
    assert len(got) < 9_000_000, "everything was drained to a revoked consumer"


def test_an_acceptance_expires(weatherflow):
    node = weatherflow
    observe(node, 1, 2)
    expires = (datetime.now(timezone.utc) + timedelta(seconds=3)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    id, acme = accepted(node, {"expires": expires}, **{"from": "earliest"})
    with Messages(acme, f"/subscriptions/{id}/events") as messages:
        assert ids(messages.events(2)) == [1, 2]
        began = time.monotonic()
        try:
            for _ in messages:
                pass
        except httpx.HTTPError:
            pass
        assert time.monotonic() - began < 4.5
    problem(acme.get(f"/subscriptions/{id}/events", headers={"accept": SSE}), 410, "subscription-closed")
    assert done(node.http.get(f"/subscriptions/{id}"))["state"] == "closed"


def test_strangers_secrets_open_nothing(weatherflow):
    node = weatherflow
    first, first_secret = request(node)
    second, second_secret = request(node)
    for credential in (second_secret, "wrs_" + "0" * 40, "x"):
        for method, path in [("GET", f"/subscriptions/{first}"), ("GET", f"/subscriptions/{first}/events"),
                             ("POST", f"/subscriptions/{first}/accept"), ("DELETE", f"/subscriptions/{first}")]:
            answer = node.stranger.request(method, path, headers=bearer(credential), json={} if method == "POST" else None)
            assert answer.status_code in (401, 403, 404), f"{method} {path} with a stranger's secret: {answer.status_code}"
    assert node.stranger.get(f"/subscriptions/{first}").status_code in (401, 404)
    # Nobody accepts their own request.
    for action in ("accept", "resume", "revoke", "suspend", "reject"):
        answer = node.stranger.post(f"/subscriptions/{first}/{action}", headers=bearer(first_secret), json={})
        # Consumers suspend and resume, too, but not what nobody has accepted.
        assert answer.status_code in ((409,) if action in ("suspend", "resume") else (401, 403, 404)), f"{action}: {answer.status_code}"
    assert done(node.http.get(f"/subscriptions/{first}"))["state"] == "requested"


def test_withdrawing_a_request(weatherflow):
    node = weatherflow
    id, secret = request(node)
    answer = node.stranger.delete(f"/subscriptions/{id}", headers=bearer(secret))
    assert answer.is_success, answer.text
    assert done(node.http.get(f"/subscriptions/{id}"))["state"] == "closed"


def test_a_contact_is_required_of_strangers(weatherflow):
    answer = weatherflow.stranger.post("/subscriptions", json={"protocol": "SSE", "config": {"stream": "weather.ny"}})
    problem(answer, 400, "contact-required")


def test_open_streams_need_no_decision(weatherflow):
    node = weatherflow
    observe(node, 1, 3, "weather.open")
    assert len(node.read("weather.open", client=node.stranger)) == 3
    answer = ask(node.stranger, "weather.open", **{"from": "earliest"})
    assert answer.status_code == 201, answer.text
    body = answer.json()
    assert body["state"] == "active" and body["grant"]
    with node.client(body["grant"]) as acme, Messages(acme, f"/subscriptions/{body['id']}/events") as messages:
        assert ids(messages.events(3)) == [1, 2, 3]


def test_allowed_organizations_are_accepted_at_once(make_node):
    node = make_node()
    owner, acme_token, other_token = node.token("owner"), node.token("consumer", "--for", "acme.example"), \
        node.token("consumer", "--for", "other.example")
    node.start()
    node.http.headers["authorization"] = f"Bearer {owner}"
    node.create("weather.partners", access="allow", allow=["acme.example"])
    with node.client(acme_token) as acme, node.client(other_token) as other:
        answer = ask(acme, "weather.partners")
        assert answer.status_code == 201 and answer.json()["state"] == "active", answer.text
        assert answer.json()["consumer"]["organization"] == "acme.example" if isinstance(answer.json()["consumer"], dict) \
            else answer.json()["consumer"] == "acme.example"
        assert ask(other, "weather.partners").status_code in (202, 403, 404)


def test_what_one_may_not_know_of_does_not_exist(weatherflow):
    node = weatherflow
    hidden = node.stranger.get("/streams/weather.secret")
    missing = node.stranger.get("/streams/weather.nothing")

    def shape(answer):
        return answer.status_code, answer.json()["type"], sorted(answer.json()), \
            answer.json()["detail"].replace("weather.secret", "NAME").replace("weather.nothing", "NAME")

    assert shape(hidden) == shape(missing)
    assert hidden.status_code == 404
    # A near match is only ever one that the caller may see.
    near = node.stranger.get("/streams/weather.secre")
    assert "weather.secret" not in near.text
    assert "weather.secret" not in node.stranger.get("/streams").text
    assert "weather.ny" in node.stranger.get("/streams").text
    assert "weather.secret" in node.http.get("/streams").text


ROLES = ("nobody", "reader", "consumer", "publisher", "owner")


@pytest.mark.parametrize("access,read,subscribe,publish,change", [
    # For each call, the roles that may.
    ("open", ROLES, ROLES, ("publisher", "owner"), ("owner",)),
    ("approval", ("reader", "owner"), ROLES, ("publisher", "owner"), ("owner",)),
    ("private", ("reader", "owner"), ("owner",), ("publisher", "owner"), ("owner",)),
])
def test_access_and_role(make_node, access, read, subscribe, publish, change):
    node = make_node()
    tokens = {role: node.token(role) for role in ROLES[1:]}
    node.start()
    node.http.headers["authorization"] = f"Bearer {tokens['owner']}"
    node.create("s", access=access)
    node.publish("s", [event("1")])
    for role in ROLES:
        with node.client(tokens.get(role)) as client:
            calls = {
                "read": (client.get("/streams/s/events", headers={"accept": "application/x-ndjson"}), read),
                "publish": (client.post("/streams/s/events", json=event(f"by {role}"),
                                        headers={"content-type": "application/cloudevents+json"}), publish),
                "change": (client.patch("/streams/s", json={"title": f"by {role}"},
                                        headers={"content-type": "application/merge-patch+json"}), change),
            }
            for call, (answer, may) in calls.items():
                if role in may:
                    assert answer.is_success, f"{role} may {call} {access}: {answer.status_code} {answer.text}"
                else:
                    assert answer.status_code in (401, 403, 404), f"{role} may not {call} {access}: {answer.status_code} {answer.text}"
            if access != "private" and role != "publisher":
                answer = ask(client, "s")
                assert (answer.status_code in (201, 202)) == (role in subscribe), f"{role} asks for {access}: {answer.text}"


def test_decisions_are_audited_with_who_why_and_when(weatherflow):
    node = weatherflow
    id, _ = accepted(node)
    done(node.http.post(f"/subscriptions/{id}/revoke", json={"reason": "terms broken"}))
    wait_until(lambda: "terms broken" in json.dumps(node.read("_weir.audit")), "the audit record")
    audit = node.read("_weir.audit")
    about = [each for each in audit if id in json.dumps(each)]
    assert len(about) >= 3, "request, acceptance, revocation"
    assert all(each["flowtime"] for each in about)
    assert node.stranger.get("/streams/_weir.audit/events").status_code in (401, 404)


def test_decisions_survive_kill(weatherflow):
    node = weatherflow
    observe(node, 1, 3)
    active, acme = accepted(node, **{"from": "earliest"})
    waiting, secret = request(node)
    gone, _ = accepted(node)
    done(node.http.post(f"/subscriptions/{gone}/revoke", json={"reason": "test"}))
    node.kill()
    node.start()
    assert done(node.http.get(f"/subscriptions/{active}"))["state"] == "active"
    assert done(node.http.get(f"/subscriptions/{waiting}"))["state"] == "requested"
    assert done(node.http.get(f"/subscriptions/{gone}"))["state"] == "closed"
    with node.client(acme.headers["authorization"].removeprefix("Bearer ")) as acme, \
            Messages(acme, f"/subscriptions/{active}/events") as messages:
        assert ids(messages.events(3)) == [1, 2, 3]


def test_renewing_a_grant_overlaps(weatherflow):
    node = weatherflow
    observe(node, 1, 1)
    id, acme = accepted(node, **{"from": "earliest"})
    renewed = done(acme.post(f"/subscriptions/{id}/grant"))["grant"]
    assert f"Bearer {renewed}" != acme.headers["authorization"]
    for client in (acme, node.client(renewed)):
        with Messages(client, f"/subscriptions/{id}/events") as messages:
            assert ids(messages.events(1)) == [1]


def test_tokens_can_be_revoked(weatherflow):
    node = weatherflow
    made = done(node.http.post("/tokens", json={"role": "reader"}))
    reader = node.client(made["token"])
    observe(node, 1, 1)
    with Messages(reader, "/streams/weather.secret/events", from_="earliest") as messages:
        messages.until("heartbeat")
        done(node.http.delete(f"/tokens/{made['id']}"))
        began = time.monotonic()
        try:
            for _ in messages:
                pass
        except httpx.HTTPError:
            pass
        assert time.monotonic() - began < 1.5
    problem(reader.get("/streams/weather.secret"), 401, "bad-credential")


def test_tokens_never_reach_the_disk_or_the_log(weatherflow):
    node = weatherflow
    id, acme = accepted(node)
    grant = acme.headers["authorization"].removeprefix("Bearer ")
    acme.get(f"/subscriptions/{id}")
    node.stop()
    for path in node.data.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            for secret in (grant, node.owner_token, node.publisher_token):
                assert secret.encode() not in content, f"a secret in clear in {path.name}"
    for secret in (grant, node.owner_token, node.publisher_token):
        assert secret not in node.log_text()
    node.start()


def reset_on_close(sock: socket.socket):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def test_consumers_that_vanish_leave_nothing_behind(weatherflow):
    """A hundred connections reset in the middle of delivery; the next consumer and the publisher don't notice."""
    node = weatherflow
    observe(node, 1, 100, "weather.open")
    for _ in range(100):
        with node.connect() as sock:
            reset_on_close(sock)
            sock.sendall(f"GET /streams/weather.open/events?from=earliest HTTP/1.1\r\nhost: 127.0.0.1:{node.port}\r\n"
                         f"accept: {SSE}\r\n\r\n".encode())
            sock.recv(10)
    observe(node, 101, 1, "weather.open")
    assert len(node.read("weather.open", client=node.stranger)) == 101
