"""Nodes for the suites; each test gets its own, and fails if a node complains unasked."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from harness import Node  # noqa: E402


@pytest.fixture
def make_node(tmp_path):
    """Makes nodes that end with the test."""
    nodes = []

    def make(**settings) -> Node:
        node = Node(tmp_path / f"node{len(nodes)}", **settings)
        nodes.append(node)
        return node

    yield make
    complaints = []
    for node in nodes:
        try:
            node.close()
        finally:
            complaints += [f"{node.directory.name}: {line}" for line in node.unexpected_log()]
    assert not complaints, "a node complained:\n" + "\n".join(complaints[:20])


@pytest.fixture
def node(make_node) -> Node:
    """A running node that is open to its own machine, as `weir serve` without configuration is."""
    return make_node().start()
