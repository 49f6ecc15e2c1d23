"""The public `cloudevents` package of JavaScript, both directions; see `tests/js/sdk.mjs` for what is compared."""

import json
import subprocess
from pathlib import Path

JS = Path(__file__).resolve().parent.parent / "js"


def test_structured_binary_and_batch_both_ways(node):
    node.create("sdk")
    out = subprocess.run(["node", "sdk.mjs", node.url, "sdk"], cwd=JS, capture_output=True, text=True, timeout=60)
    assert out.returncode == 0, out.stderr
    assert json.loads(out.stdout) == {"events": 15}
