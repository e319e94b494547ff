"""Every selector of the project meets the contract."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("experiments.selector_contract")

from experiments.selector_contract import *  # noqa: E402, F403 - its tests and fixtures are those of this file
