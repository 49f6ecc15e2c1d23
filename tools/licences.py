#!/usr/bin/env python3
"""Checks that everything Weir is built from may be shipped under Apache-2.0.

Reads `cargo metadata` (so it sees exactly what the lock file pins, for this platform) and, where they are
installed, the lock file of the JavaScript test clients. Every package must carry an SPDX expression that can be
satisfied with licences of ALLOWED alone: of `A OR B` one side is enough, of `A AND B` both are needed. A package
without an expression, or with one we don't know, fails: a person decides and adds it here with a reason.

Usage: tools/licences.py [--list]
"""

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Permissive licences only: none that asks more of whoever ships Weir than to keep notices.
ALLOWED = {
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unicode-DFS-2016",
    "Unlicense",
    "Zlib",
}


def allowed(expression: str) -> bool:
    """Whether an SPDX licence expression can be met with ALLOWED alone."""
    # `MIT/Apache-2.0` is the form from before SPDX expressions; it means OR.
    tokens = re.findall(r"\(|\)|[^\s()]+", expression.replace("/", " OR "))
    position = 0

    def peek() -> str | None:
        return tokens[position] if position < len(tokens) else None

    def take() -> str:
        nonlocal position
        if position >= len(tokens):
            raise ValueError(f"the expression {expression!r} ends too early")
        position += 1
        return tokens[position - 1]

    def either() -> bool:
        result = both()
        while peek() == "OR":
            take()
            result = both() or result
        return result

    def both() -> bool:
        result = one()
        while peek() == "AND":
            take()
            result = one() and result
        return result

    def one() -> bool:
        token = take()
        if token == "(":
            result = either()
            if take() != ")":
                raise ValueError(f"unbalanced parentheses in {expression!r}")
            return result
        if peek() == "WITH":
            take()
            token = f"{token} WITH {take()}"
        return token in ALLOWED

    result = either()
    if position != len(tokens):
        raise ValueError(f"cannot read {expression!r} after {' '.join(tokens[:position])!r}")
    return result


def crates() -> list[tuple[str, str]]:
    """Every crate in the build for this platform with its licence expression."""
    version = subprocess.run(["rustc", "-vV"], check=True, capture_output=True, text=True).stdout
    host = re.search(r"^host: (\S+)$", version, re.MULTILINE).group(1)
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--filter-platform", host]
    metadata = json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)
    resolved = {node["id"] for node in metadata["resolve"]["nodes"]}
    return [
        (f"{package['name']} {package['version']}", package["license"] or "")
        for package in metadata["packages"]
        if package["id"] in resolved
    ]


def node_packages() -> list[tuple[str, str]]:
    """Every JavaScript package of the tests; never shipped, but checked all the same."""
    lock = json.loads((ROOT / "tests/js/package-lock.json").read_text())
    return [
        (f"{path.removeprefix('node_modules/')} {package['version']}", package.get("license", ""))
        for path, package in lock["packages"].items()
        if path
    ]


def main() -> int:
    packages = sorted(crates()) + sorted(node_packages())
    refused = []
    for name, expression in packages:
        if "--list" in sys.argv[1:]:
            print(f"{name:40} {expression}")
        try:
            good = bool(expression) and allowed(expression)
        except ValueError:
            good = False
        if not good:
            refused.append((name, expression))
    for name, expression in refused:
        print(f"{name}: {expression or 'no licence expression'!r} is not among the allowed licences", file=sys.stderr)
    print(f"{len(packages)} packages checked, {len(refused)} refused")
    return 1 if refused else 0


def _self_check() -> None:
    """The rules of the expression reader, checked on every run: it is the only guard."""
    good = ["MIT", "MIT OR GPL-3.0", "GPL-3.0 OR MIT", "(MIT OR GPL-2.0) AND Zlib", "MIT/Apache-2.0",
            "Apache-2.0 WITH LLVM-exception OR GPL-2.0", "Apache-2.0 AND ISC"]
    bad = ["GPL-3.0", "MIT AND GPL-3.0", "(MIT AND GPL-2.0) OR LGPL-3.0", "MIT WITH some-exception", "SSPL-1.0"]
    assert all(allowed(expression) for expression in good)
    assert not any(allowed(expression) for expression in bad)


if __name__ == "__main__":
    _self_check()
    sys.exit(main())
