"""BentoML's own timer of requests, left out.

It sets one for every request and never cancels it, so that 0.8 kB of each is kept until the time is over. That time
must be longer than an upload may take, an hour by default: 250 requests a second would come to 700 MB. Our own
deadlines end every request, and with a problem document.
"""

from __future__ import annotations

from starlette.types import ASGIApp


def leave_out_timer() -> None:
    """Before BentoML builds its application: have it do without its timer."""
    from bentoml._internal.server.http import traffic

    # BentoML takes no setting for "none", and looks the class up here when it builds the application.
    traffic.TimeoutMiddleware = _nothing  # type: ignore[assignment, misc]


def _nothing(app: ASGIApp, timeout: float) -> ASGIApp:
    return app
