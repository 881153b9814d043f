"""BentoML's application does without the timer that keeps something of every request."""

from __future__ import annotations

import bentoml
import pytest
from bentoml._internal.server.http import traffic

from serving.http.request_timer import leave_out_timer


class Empty:
    """A service without anything."""


def timers() -> int:
    app = bentoml.service(name="empty", traffic={"timeout": 3})(Empty).to_asgi()
    return sum(getattr(middleware.cls, "__module__", "") == traffic.__name__ for middleware in app.user_middleware)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # BentoML's own
def test_the_application_is_built_without_a_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    assert timers() == 1, "BentoML has none any more: serving.http.request_timer can go"
    monkeypatch.setattr(traffic, "TimeoutMiddleware", traffic.TimeoutMiddleware)  # puts it back afterwards
    leave_out_timer()
    assert timers() == 0
