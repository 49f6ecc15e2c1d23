"""Runs what the documentation prints.

In each page listed, the fenced `sh` blocks are one shell session, top to bottom, in the root of the checkout. A block fails as soon as a line
does. A fenced `text` or `json` block right after a `sh` block is what that block prints: compared line by line, where `…`
stands for anything. A block under `<!-- not run: REASON -->` is left alone.

What the page starts in the background ends with the page. The program on the PATH is the one under test.
"""

import os
import re
import signal
import socket
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = ["README.md", "docs/guide.md"]
WEIR = Path(os.environ.get("WEIR_BIN", "weir"))
MARK = "==weir-docs-block=="


def blocks(text: str) -> list[tuple[int, str, str | None]]:
    """(line, script, expected output or None) of every block to run."""
    found, lines, at = [], text.splitlines(), 0
    previous_end = None
    while at < len(lines):
        match = re.fullmatch(r"```(\w*)", lines[at])
        if not match:
            at += 1
            continue
        end = lines.index("```", at + 1)
        body, kind = "\n".join(lines[at + 1:end]), match[1]
        before = next((line for line in reversed(lines[:at]) if line.strip()), "")
        if before.startswith("<!-- not run:"):
            previous_end = None
        elif kind == "sh":
            found.append((at + 1, body, None))
            previous_end = end
        elif kind in ("text", "json") and previous_end is not None and not "".join(lines[previous_end + 1:at]).strip():
            line, script, _ = found[-1]
            found[-1] = (line, script, body)
            previous_end = None
        else:
            previous_end = None
        at = end + 1
    return found


def matches(expected: str, actual: str) -> bool:
    """Whether the lines expected are in what was printed, in order; `…` is anything."""
    wanted = [re.compile(".*".join(re.escape(piece) for piece in line.strip().split("…"))) for line in expected.splitlines()
              if line.strip() and line.strip() != "…"]
    lines = iter(line.strip() for line in actual.splitlines())
    return all(any(pattern.fullmatch(line) for line in lines) for pattern in wanted)


def free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


@pytest.mark.parametrize("page", PAGES)
def test_page(page, tmp_path):
    path = ROOT / page
    if not path.exists():
        pytest.skip(f"no {page}")
    assert free(8080), "port 8080 is taken: the pages use it"
    todo = blocks(path.read_text())
    assert todo, "nothing to run"
    script = "".join(f"printf '\\n%s %s\\n' '{MARK}' {line}\n{body}\nsleep 0.1\n" for line, body, _ in todo)
    session = f"set -euo pipefail\nexport PATH='{WEIR.parent}':\"$PATH\"\n{script}\nprintf '\\n%s end\\n' '{MARK}'\n"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WEIR_")}
    out = tmp_path / "out"
    with out.open("wb") as file:
        shell = subprocess.Popen(["bash", "-c", session], cwd=ROOT, env={**environment, "TMPDIR": str(tmp_path)},
                                 stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            code = shell.wait(900)
        except subprocess.TimeoutExpired:
            code = "timeout"
        finally:
            # What the page left running.
            for attempt in (signal.SIGTERM, signal.SIGKILL):
                try:
                    os.killpg(shell.pid, attempt)
                except ProcessLookupError:
                    break
                try:
                    shell.wait(5)
                except subprocess.TimeoutExpired:
                    pass
    text = out.read_text(errors="replace")
    pieces = dict(re.findall(rf"^{MARK} (\w+)\n(.*?)(?=^{MARK} |\Z)", text, re.MULTILINE | re.DOTALL))
    assert code == 0 and "end" in pieces, f"{page}: the session ended with {code}:\n{text[-4000:]}"
    for line, body, expected in todo:
        if expected is not None:
            assert matches(expected, pieces[str(line)]), \
                f"{page}:{line}\n{body}\n--- should print\n{expected}\n--- printed\n{pieces[str(line)]}"


LINK = re.compile(r"\]\(([^)\s]+)\)")


@pytest.mark.parametrize("page", sorted(str(path.relative_to(ROOT)) for path in
                                        [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("tests/*.md"), *ROOT.glob("bench/*.md")]))
def test_links_lead_somewhere(page):
    path = ROOT / page
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    for target in LINK.findall(text):
        if "://" in target or target.startswith(("mailto:", "#")):
            continue
        file, _, anchor = target.partition("#")
        there = (path.parent / file).resolve()
        assert there.exists(), f"{page} links to {target}"
        if anchor and there.suffix == ".md":
            headings = {re.sub(r"[^\w\- ]", "", line.lstrip("#").strip().lower()).replace(" ", "-")
                        for line in there.read_text().splitlines() if line.startswith("#")}
            assert anchor in headings, f"{page} links to {target}"


def test_architecture_names_what_exists():
    """Every `path/to/file.rs` that ARCHITECTURE.md names is there."""
    text = (ROOT / "ARCHITECTURE.md").read_text()
    for name in set(re.findall(r"`((?:crates|docs|tests|bench|fuzz|tools|data)/[\w./-]+)`", text)):
        assert (ROOT / name).exists(), name


def test_stream_vectors_are_those_of_the_tests():
    subprocess.run([ROOT / "tools/stream_vectors.py"], check=True)
