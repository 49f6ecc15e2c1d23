#!/usr/bin/env python3
"""Keeps the test vectors printed in docs/protocol/stream.md those of crates/event/testdata/stream_vectors.json.

Usage: tools/stream_vectors.py            says whether the page is up to date, by its exit code
       tools/stream_vectors.py --write    brings it up to date
"""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/protocol/stream.md"
VECTORS = ROOT / "crates/event/testdata/stream_vectors.json"
BEGIN = "<!-- made by tools/stream_vectors.py from the vectors' file -->\n"


def wrapped(hexadecimal: str) -> str:
    return "\n".join(hexadecimal[at:at + 96] for at in range(0, len(hexadecimal), 96))


def section() -> str:
    vectors = json.loads(VECTORS.read_text())
    out = [BEGIN]
    for frame in vectors["frames"]:
        out.append(f"\n**{frame['name'].capitalize()}**\n\n```hex\n{wrapped(frame['hex'])}\n```\n")
        for part in frame["decoded"]:
            out.append(f"\n```json\n{json.dumps(part, ensure_ascii=False)}\n```\n")
        if not frame["decoded"]:
            out.append("\nNothing: the frame is passed over.\n")
    out.append("\nBytes that end the connection:\n\n| bytes | why |\n|---|---|\n")
    out += [f"| `{error['hex']}` | {error['name']} |\n" for error in vectors["errors"]]
    return "".join(out)


def main() -> int:
    before, begin, _ = PAGE.read_text().partition(BEGIN)
    if not begin:
        print(f"{PAGE} has no place for the vectors", file=sys.stderr)
        return 1
    wanted = before + section()
    if "--write" in sys.argv[1:]:
        PAGE.write_text(wanted)
    elif PAGE.read_text() != wanted:
        print("docs/protocol/stream.md is out of date: run tools/stream_vectors.py --write", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
