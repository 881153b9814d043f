"""Whose a request is, and which engine it is for: what all routes ask."""

from __future__ import annotations

from starlette.requests import Request

from serving.engine import Engine


def engine_of(request: Request) -> Engine:
    engine: Engine = request.app.state.engine
    return engine


def caller_of(request: Request) -> str:
    """Whose requests are counted together: an API key's, or an address's. A proxy's callers are one caller."""
    key = getattr(request.state, "caller", None)
    return f"key {key}" if key else f"address {request.client.host if request.client else 'unknown'}"
