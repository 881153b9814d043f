"""The shortest way from the HTTP server to a handler.

A mounted application's requests pass BentoML's own router, which tries a dozen patterns, its per-request context,
and Starlette's exception and routing layers twice. For the paths that hold no parameter one look into a dictionary
does all of that; every other request, and so each error page, goes the usual way.
"""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send


class DirectRoutes:
    """ASGI middleware that calls the handlers of `target`, an application mounted further in.

    What a handler raises is answered by the handlers of exceptions that `target` was made with.
    """

    def __init__(self, app: ASGIApp, target: Starlette) -> None:
        self._app = app
        self._target = target
        self._endpoints = {
            (method, route.path): route.endpoint
            for route in target.routes
            if isinstance(route, Route) and "{" not in route.path
            for method in route.methods or ()
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        endpoint = self._endpoints.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        if endpoint is None:
            await self._app(scope, receive, send)
            return
        scope["app"] = self._target
        request = Request(scope, receive, send)
        try:
            response = await endpoint(request)
        except Exception as error:
            for kind in type(error).__mro__:
                answer = self._target.exception_handlers.get(kind)
                if answer is not None:
                    response = await answer(request, error)
                    break
            else:
                raise
        await response(scope, receive, send)
