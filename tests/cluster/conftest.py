"""The node that all tests of this folder share; without Slurm they are skipped by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest

from tests.cluster import one_node


@pytest.fixture(scope="session")
def node() -> Iterator[Mapping[str, str]]:
    """The environment in which Slurm's commands find a real node of this machine."""
    if one_node.missing():
        pytest.skip(f"no {', '.join(one_node.missing())} here (Debian: apt-get install slurm-wlm munge)")
    with one_node.slurm() as environment:
        yield environment
