"""The two clients, each in its turn."""

from __future__ import annotations

import pytest
from support.clients import CLIENTS, CallClient


@pytest.fixture(params=list(CLIENTS))
def call(request: pytest.FixtureRequest) -> CallClient:
    return CLIENTS[request.param]
