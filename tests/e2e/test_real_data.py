"""Real data, where it lies beside the checkout: world weather reports with their duplicates, and change logs of tables, go through
publish, duplicate detection and range reads; the totals are those that were computed without Weir."""

import csv
import gzip
import hashlib
import json
from collections import Counter

import pytest
from harness import BATCH, SHARED, Tail, done, next_link

DATA = SHARED / "data"

pytestmark = pytest.mark.skipif(not (DATA / "EXPECTED.json").exists(), reason="no real data beside the checkout")


@pytest.fixture(scope="module")
def expected() -> dict:
    return json.loads((DATA / "EXPECTED.json").read_text())


def send(node, stream: str, events, size: int = 1000) -> Counter:
    """Publishes all, in batches; answers the sums of the acknowledgements."""
    totals, batch = Counter(), []

    def flush():
        if batch:
            answer = done(node.http.post(f"/streams/{stream}/events", content=json.dumps(batch), headers={"content-type": BATCH}))
            totals.update({name: answer[name] for name in ("count", "duplicates")})
            batch.clear()

    for each in events:
        batch.append(each)
        if len(batch) == size:
            flush()
    flush()
    return totals


def reports():
    """Each row as an event whose id is what makes a report one report."""
    with gzip.open(DATA / "weather/metar-world-2022-10-22_23.csv.gz", "rt", newline="") as file:
        for row in csv.DictReader(file):
            natural = "\n".join((row["station_id"], row["observation_time"], row["raw_text"]))
            yield {
                "specversion": "1.0", "type": "world.metar.report.v1", "source": "/metar",
                "id": hashlib.sha256(natural.encode()).hexdigest()[:32], "subject": row["station_id"], "time": row["observation_time"],
                "datacontenttype": "application/json", "letter": row["station_id"][0].lower(),
                # The snapshot is when it was polled, not part of the report.
                "data": {name: value for name, value in row.items() if value and name != "snapshot_at"},
            }


def test_metar_reports(node, expected):
    weather = expected["weather"]
    distinct = weather["metar_distinct_reports(station_id,observation_time,raw_text)"]
    letters = weather["metar_distinct_reports_by_first_letter"]
    node.create("weather.world", dedupe={"age": "1d", "count": 1_000_000})
    tail = Tail(node.url, "/streams/weather.world/events", from_="earliest", filter="letter = 'k'")
    tail.start()
    totals = send(node, "weather.world", reports())
    assert totals["count"] + totals["duplicates"] == weather["metar_rows"]
    assert totals["count"] == distinct

    # Again, after a restart: all of it is known.
    node.restart()
    again = send(node, "weather.world", reports())
    assert (again["count"], again["duplicates"]) == (0, weather["metar_rows"])

    got = node.read("weather.world")
    assert len(got) == distinct
    assert [int(each["flowposition"]) for each in got] == list(range(1, distinct + 1))
    assert dict(Counter(each["subject"][0] for each in got)) == letters
    stations = {each["subject"] for each in got}
    assert len(stations) == weather["metar_stations"]

    # Filters count the same, in every dialect that can say it, without reading what does not match.
    for letter in "KYE":
        count = sum(1 for _ in node.read_lines("weather.world", filter=f"letter = '{letter.lower()}'"))
        assert count == letters[letter], letter
    assert sum(1 for _ in node.read_lines("weather.world", filter="LEFT(subject, 1) = 'C'")) == letters["C"]
    assert sum(1 for _ in node.read_lines("weather.world", filter="subject LIKE 'Z%'")) == letters["Z"]

    # Ranges that meet end to end are the whole.
    cuts = [1, 2, 1000, 7777, 20_000, distinct]
    pieces = [each["id"] for a, b in zip(cuts, cuts[1:]) for each in node.read("weather.world", from_=a, to=b - 1)]
    assert pieces == [each["id"] for each in got[:-1]]

    # The filtered tail, over a restart, has every match once and in order.
    tail.wait_for(max(int(e["flowposition"]) for e in got if e["letter"] == "k"), 30)
    tail.stop()
    assert [each["id"] for _, each in tail.received] == [each["id"] for each in got if each["letter"] == "k"]


def changes(file: str, source: str, key: str):
    with gzip.open(DATA / "cdc" / file, "rt") as rows:
        for line in rows:
            row = json.loads(line)
            yield {"specversion": "1.0", "type": "table.changed.v1", "source": source, "id": str(row["seq"]),
                   "subject": str((row["after"] or row["before"])[key]), "op": row["op"], "data": row}


def fold(events, key: str) -> tuple[dict, Counter]:
    """The table that a change log leaves."""
    table, ops = {}, Counter()
    for each in events:
        change = each["data"]
        ops[change["op"]] += 1
        if change["op"] == "d":
            assert table.pop(change["before"][key]) == change["before"]
        else:
            if change["op"] == "u":
                assert table[change["before"][key]] == change["before"]
            table[change["after"][key]] = change["after"]
    return table, ops


def test_quakes_change_log(node, expected):
    cdc = expected["cdc"]
    node.create("quakes")
    source = list(changes("quakes-2025-05-04_13.ndjson.gz", "/usgs", "id"))
    totals = send(node, "quakes", source, 321)
    assert totals["count"] == cdc["quakes_events"]
    got = node.read("quakes")
    assert [each["data"] for each in got] == [each["data"] for each in source]
    table, ops = fold(got, "id")
    assert dict(ops) == cdc["quakes_ops"]
    assert len(table) == cdc["quakes_final_rows"]
    assert dict(Counter(row["net"] for row in table.values())) == cdc["quakes_final_rows_by_net"]
    assert sum((row["mag"] or 0) >= 4.5 for row in table.values()) == cdc["quakes_final_rows_mag_ge_4_5"]
    assert hashlib.sha256("\n".join(sorted(table)).encode()).hexdigest() == cdc["quakes_final_ids_sha256"]
    for op, count in cdc["quakes_ops"].items():
        assert sum(1 for _ in node.read_lines("quakes", filter=f"op = '{op}'")) == count


def test_fires_change_log_by_pages_and_time(node, expected):
    cdc = expected["cdc"]
    node.create("fires")
    assert send(node, "fires", changes("calfire-incidents-2021-07_09.ndjson.gz", "/calfire", "UniqueId"), 50)["count"] == cdc["fires_events"]
    got, url, params = [], "/streams/fires/events", {"limit": 100}
    while url:
        answer = node.http.get(url, params=params, headers={"accept": BATCH})
        got += answer.json()
        url, params = next_link(answer), None
    table, ops = fold(got, "UniqueId")
    assert dict(ops) == cdc["fires_ops"]
    assert len(table) == cdc["fires_final_rows"]
    assert sum(row["AcresBurned"] or 0 for row in table.values()) == cdc["fires_final_acres"]
    middle = got[len(got) // 2]["flowtime"]
    since = node.read("fires", from_=middle)
    assert [each["id"] for each in since] == [each["id"] for each in got if each["flowtime"] >= middle]
