"""Runs the real program and talks to it the way outsiders do.

A `Node` is one `weir serve` with a data directory of its own on a loopback port of its own. It is started, stopped
(SIGTERM, must drain and exit 0), killed (SIGKILL) and started again at will; the port stays, as an address would.
Whatever it logs at WARN or ERROR that the test did not ask for with `expect_log` fails the test.

Events are made here by hand as JSON or protobuf bytes, on purpose without any CloudEvents library: the suites that
check such libraries say so.
"""

import base64
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import httpx

WEIR = os.environ.get("WEIR_BIN", "weir")
SHARED = Path(__file__).resolve().parents[3] / "shared"
"""Real data beside the checkout, where somebody has it."""

QUICK = os.environ.get("WEIR_TEST_QUICK", "") not in ("", "0")

JSON = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"
PROTO = "application/cloudevents+protobuf"
PROTO_BATCH = "application/cloudevents-batch+protobuf"
NDJSON = "application/x-ndjson"
SSE = "text/event-stream"
STREAM = "application/vnd.weir.stream"

# What a node may say at WARN without being asked: it is open, because no token was made.
USUAL_WARNINGS = (re.compile(r"without authentication|no token|open to|is open"),)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until(condition, what: str, seconds: float = 10.0):
    """The first true answer of `condition`; fails after `seconds` by naming `what` was waited for."""
    deadline = time.monotonic() + seconds
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds} s in vain for {what}")
        time.sleep(0.01)


class Node:
    """One node: its process, its data directory, its log."""

    def __init__(self, directory: Path, name: str = "weatherflow.example", args: tuple = (), env: dict | None = None,
                 disk=None, wrapper: tuple = ()):
        """`disk`: a `DiskControl` that answers for the disk; `wrapper`: a command that runs the program."""
        self.disk, self.wrapper = disk, list(wrapper)
        self.directory = directory
        self.data = directory / "data"
        self.log = directory / "node.log"
        self.name = name
        self.args = list(args)
        self.env = env or {}
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen | None = None
        self.expected: list[re.Pattern] = list(USUAL_WARNINGS)
        self.http = httpx.Client(base_url=self.url, timeout=30)
        directory.mkdir(parents=True, exist_ok=True)

    def start(self) -> "Node":
        assert self.process is None, "started twice"
        command = [*self.wrapper, WEIR, "serve", "--listen", f"127.0.0.1:{self.port}", "--data", str(self.data), "--name", self.name,
                   "--log-format", "json", *self.args]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            cwd=self.directory, env={**clean_environment(), **self.env},
                                            preexec_fn=self.disk.install if self.disk else None)
        if self.disk:
            self.disk.attach()
        wait_until(self._ready, "the node to be ready", 20)
        return self

    def _ready(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(f"the node exited with {self.process.returncode}:\n{self.log_text()[-4000:]}")
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{self.url}/readyz", timeout=5).status_code == 200
        return False

    def kill(self):
        """As a machine's out-of-memory killer would: no warning, nothing drained."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)
        self.process = None
        self.reconnect()

    def stop(self, seconds: float = 15):
        """SIGTERM: drains, saves, exits 0."""
        if self.disk:
            self.disk.release()
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"the node did not stop within {seconds} s of SIGTERM") from None
        self.process = None
        self.reconnect()
        assert code == 0, f"the node stopped with exit code {code}:\n{self.log_text()[-4000:]}"

    def restart(self):
        self.stop()
        self.start()

    def reconnect(self):
        """Forgets the connections to the process that is gone."""
        headers = self.http.headers
        self.http.close()
        self.http = httpx.Client(base_url=self.url, timeout=30, headers=headers)

    def close(self):
        if self.process is not None:
            self.stop()
        self.http.close()

    def log_text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def expect_log(self, pattern: str):
        """Lines that match are asked for: they may be WARN or ERROR."""
        self.expected.append(re.compile(pattern))

    def unexpected_log(self) -> list[str]:
        found = []
        for line in self.log_text().splitlines():
            # Also a panic's lines, which are no JSON.
            alarming = re.search(r'"level":\s*"(WARN|ERROR)"|panicked at', line, re.IGNORECASE)
            if alarming and not any(pattern.search(line) for pattern in self.expected):
                found.append(line)
        return found

    # What outsiders do.

    def token(self, role: str, *args: str) -> str:
        """Makes a token by the command line, on the data directory, as before a first start."""
        out = run("keys", "token", "create", "--role", role, "--data", str(self.data), "--json", *args)
        return json.loads(out.stdout)["token"]

    def client(self, token: str | None = None) -> httpx.Client:
        """Somebody else's HTTP client, with their credential."""
        headers = {"authorization": f"Bearer {token}"} if token else {}
        return httpx.Client(base_url=self.url, timeout=30, headers=headers)

    def create(self, stream: str, **descriptor) -> dict:
        return done(self.http.put(f"/streams/{stream}", json=descriptor))

    def publish(self, stream: str, events: list[dict], **query) -> dict:
        return done(self.http.post(f"/streams/{stream}/events", params=query, headers={"content-type": BATCH},
                                   content=json.dumps(events)))

    def read(self, stream: str, client: httpx.Client | None = None, **query) -> list[dict]:
        """Every event of a range, over as many pages as the node makes of it."""
        return [json.loads(line) for line in self.read_lines(stream, client, **query)]

    def read_lines(self, stream: str, client: httpx.Client | None = None, **query):
        client = client or self.http
        url, params = f"/streams/{stream}/events", {k.rstrip("_"): v for k, v in query.items()}
        while url:
            answer = client.get(url, params=params, headers={"accept": NDJSON})
            assert answer.status_code == 200, answer.text
            yield from (line for line in answer.content.split(b"\n") if line)
            url, params = next_link(answer), None

    def head(self, stream: str) -> dict:
        return done(self.http.get(f"/streams/{stream}"))

    def connect(self, seconds: float = 10) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=seconds)


def next_link(answer: httpx.Response) -> str | None:
    """Where a list or range goes on; None at its end."""
    link = answer.links.get("next")
    return link["url"] if link else None


def done(answer: httpx.Response):
    """The JSON of a call that must have worked."""
    assert answer.is_success, f"{answer.request.method} {answer.request.url}: {answer.status_code} {answer.text}"
    return answer.json() if answer.content else None


def problem(answer: httpx.Response, status: int, name: str) -> dict:
    """The problem detail of a call that must have failed with this status and error."""
    assert answer.status_code == status, f"{answer.status_code} instead of {status}: {answer.text}"
    assert answer.headers["content-type"] == "application/problem+json", answer.headers
    body = answer.json()
    assert body["type"] == f"urn:weir:error:{name}", body
    assert body["status"] == status, body
    assert body["title"] and body["detail"], body
    return body


def clean_environment() -> dict:
    """The environment without what would configure the program."""
    return {name: value for name, value in os.environ.items() if not name.startswith("WEIR_")}


def run(*args: str, check: int | None = 0, env: dict | None = None, timeout: float = 60, **more):
    """Runs the program to its end; fails unless it exits with `check`."""
    result = subprocess.run([WEIR, *args], capture_output=True, text=True, timeout=timeout,
                            env={**clean_environment(), **(env or {})}, **more)
    if check is not None:
        assert result.returncode == check, f"weir {' '.join(args)}: exit {result.returncode}\n{result.stdout}\n{result.stderr}"
    return result


def event(id: str, data=None, **attributes) -> dict:
    """A structured JSON event; `data` as JSON."""
    made = {"specversion": "1.0", "id": id, "source": "/tests", "type": "test.happened.v1", **attributes}
    if data is not None:
        made["data"] = data
    return made


# Server-sent events, read as the specification says and nothing more.

class Messages:
    """An SSE connection: iterate for messages `{"event", "id", "data"}`; heartbeats and all."""

    def __init__(self, client: httpx.Client, path: str, last_event_id: str | None = None, seconds: float = 20, **query):
        headers = {"accept": SSE, "cache-control": "no-store"}
        if last_event_id is not None:
            headers["last-event-id"] = last_event_id
        timeout = httpx.Timeout(seconds)
        self._context = client.stream("GET", path, params={k.rstrip("_"): v for k, v in query.items()},
                                      headers=headers, timeout=timeout)
        self.response = self._context.__enter__()
        self.last_id: str | None = last_event_id
        if self.response.status_code == 200:
            assert self.response.headers["content-type"].split(";")[0] == SSE
        self._messages = self._parse()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def close(self):
        with contextlib.suppress(Exception):
            self._context.__exit__(None, None, None)

    def __iter__(self):
        return self._messages

    def __next__(self):
        return next(self._messages)

    def _parse(self):
        kind, data, pending = "", [], b""
        for chunk in self.response.iter_raw():
            pending += chunk
            *lines, pending = pending.split(b"\n")
            for line in lines:
                line = line.rstrip(b"\r").decode()
                if not line:
                    if data:
                        yield {"event": kind or "message", "id": self.last_id, "data": "\n".join(data)}
                    kind, data = "", []
                    continue
                field, _, value = line.partition(":")
                value = value.removeprefix(" ")
                if field == "event":
                    kind = value
                elif field == "data":
                    data.append(value)
                elif field == "id":
                    self.last_id = value

    def events(self, count: int) -> list[dict]:
        """The next so many events, passing over everything else, as parsed JSON."""
        found = []
        for message in self:
            if message["event"] == "message":
                found.append(json.loads(message["data"]))
                if len(found) == count:
                    return found
        raise AssertionError(f"the connection ended after {len(found)} of {count} events")

    def until(self, kind: str) -> dict:
        """The JSON of the next message of this kind."""
        for message in self:
            if message["event"] == kind:
                return json.loads(message["data"])
        raise AssertionError(f"the connection ended without {kind!r}")


# CloudEvents protobuf, written by hand from the published field numbers.

def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes(out) + bytes([number])


def _field(number: int, payload: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def proto_event(id: str, text: str | None = None, binary: bytes | None = None, **attributes) -> bytes:
    """One event; attributes: bool, int, str or bytes; `time` becomes a timestamp by its seconds since 1970."""
    out = _field(1, id.encode()) + _field(2, b"/tests") + _field(3, b"1.0") + _field(4, b"test.happened.v1")
    for name, value in attributes.items():
        if isinstance(value, bool):
            inner = _varint(1 << 3) + _varint(int(value))
        elif name == "time":
            inner = _field(7, _varint(1 << 3) + _varint(value))
        elif isinstance(value, int):
            inner = _varint(2 << 3) + _varint(value & (1 << 64) - 1)
        elif isinstance(value, bytes):
            inner = _field(4, value)
        else:
            inner = _field(3, value.encode())
        out += _field(5, _field(1, name.encode()) + _field(2, inner))
    if binary is not None:
        out += _field(6, binary)
    if text is not None:
        out += _field(7, text.encode())
    return out


def proto_batch(events: list[bytes]) -> bytes:
    return b"".join(_field(1, each) for each in events)


def proto_fields(message: bytes):
    """(number, value) of every field, in order; value is bytes or an int."""
    at = 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(message):
        tag = varint()
        if tag & 7 == 0:
            yield tag >> 3, varint()
        elif tag & 7 == 2:
            length = varint()
            yield tag >> 3, message[at:at + length]
            at += length
        else:
            raise AssertionError(f"wire type {tag & 7}")


def frames(body: bytes):
    """(kind, payload) of every whole STREAM frame."""
    while len(body) >= 4:
        length = int.from_bytes(body[:4], "big")
        if len(body) < 4 + length:
            return
        yield body[4], body[5:4 + length]
        body = body[4 + length:]


def data_of(structured: dict) -> bytes:
    """The data bytes of a structured event: exact for `data_base64`, compact JSON for `data`."""
    if "data_base64" in structured:
        return base64.b64decode(structured["data_base64"], validate=True)
    return json.dumps(structured["data"], separators=(",", ":"), ensure_ascii=False).encode()


class Tail(threading.Thread):
    """A consumer that never gives up: reads SSE, resumes by Last-Event-ID after every cut, keeps what it got.

    `received` is a list of (position, event); `problems` names every breach of order or unannounced gap seen."""

    def __init__(self, url: str, path: str, token: str | None = None, **query):
        super().__init__(daemon=True, name=f"tail {path}")
        self.url, self.path, self.query = url, path, query
        self.headers = {"authorization": f"Bearer {token}"} if token else {}
        self.received: list[tuple[int, dict]] = []
        self.notices: list[dict] = []
        self.problems: list[str] = []
        self.connections = 0
        self.stopping = False
        self.last_id: str | None = None

    def run(self):
        while not self.stopping:
            with contextlib.suppress(httpx.HTTPError, OSError):
                with httpx.Client(base_url=self.url, headers=self.headers) as client:
                    with Messages(client, self.path, self.last_id, seconds=30, **self.query) as messages:
                        if messages.response.status_code == 200:
                            self.connections += 1
                            for message in messages:
                                self._take(message)
                                if self.stopping:
                                    return
            time.sleep(0.02)

    def _take(self, message: dict):
        self.last_id = message["id"]
        if message["event"] == "notice":
            self.notices.append(json.loads(message["data"]))
        elif message["event"] == "message":
            structured = json.loads(message["data"])
            position = int(structured["flowposition"])
            if str(position) != message["id"]:
                self.problems.append(f"id {message['id']} on position {position}")
            if self.received and position != self.received[-1][0] + 1 and not self.notices:
                self.problems.append(f"position {position} after {self.received[-1][0]}")
            self.received.append((position, structured))

    def wait_for(self, position: int, seconds: float = 20):
        wait_until(lambda: self.received and self.received[-1][0] >= position, f"position {position} on the tail", seconds)

    def stop(self):
        self.stopping = True
