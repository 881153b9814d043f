"""The BentoML service: a thin shell that puts the routes of `serving.http.app` into BentoML's server.

BentoML brings the server, its workers, health pages, tracing and Bentos. The routes are mounted instead of
being BentoML endpoints, because those parse bodies before they can be limited, have three shapes of errors
and batch one caller's damaged frame together with another's sound one. BentoML's own metrics are off: they
label by raw path, which any scanner makes up without end; `serving.http.app` answers `/metrics` in their place. Its
access log is off for the same reason; `serving.monitoring.logs` says what there is instead.
"""

from __future__ import annotations

import gc

import bentoml

from serving.engine import Engine
from serving.http.access import AccessGuard
from serving.http.app import create_app
from serving.http.direct_routes import DirectRoutes
from serving.http.early_refusal import EARLY_REFUSAL
from serving.http.http_protocol import use_bounded_protocol
from serving.http.problem import ProblemMiddleware
from serving.http.request_record import Recorder
from serving.http.request_timer import leave_out_timer
from serving.http.supervision import end_with_supervisor
from serving.jobs.desk import open_desk
from serving.limits import Settings
from serving.monitoring.logs import configure_logs
from serving.monitoring.telemetry import Telemetry
from serving.monitoring.tracing import tracing_settings

SETTINGS = Settings.from_env()
TELEMETRY = Telemetry()
APP = create_app()
use_bounded_protocol()
leave_out_timer()

# Of BentoML's timer, should a release of it not let itself be left out; ours answer first, with a problem document.
_BACKSTOP_S = 30


class Worker:
    """Scores sewer-inspection frames as defect or normal; one instance a worker process."""

    def __init__(self) -> None:
        # Loading and warming up here keeps the worker from accepting connections before it can score, so
        # with several workers none answers while another is still ready.
        end_with_supervisor()
        worker = bentoml.server_context.worker_index or 1
        configure_logs(SETTINGS.log_format, worker)
        self.engine = Engine(SETTINGS, TELEMETRY, worker=worker - 1)
        APP.state.engine = EARLY_REFUSAL.engine = self.engine
        APP.state.jobs = open_desk(SETTINGS, self.engine)
        # What is loaded by now stays: the collector need not look at a hundred thousand objects again and again.
        gc.freeze()

    async def __is_ready__(self) -> bool:
        return self.engine.ready

    async def __is_alive__(self) -> bool:
        return self.engine.ready


PipeprobeService = bentoml.service(
    name="pipeprobe",
    workers=SETTINGS.workers,
    traffic={"timeout": max(SETTINGS.deadline_s, SETTINGS.upload_timeout_s) + _BACKSTOP_S},
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
    tracing=tracing_settings(SETTINGS.trace_endpoint, SETTINGS.trace_share),
)(Worker)
PipeprobeService.mount_asgi_app(APP)
PipeprobeService.add_asgi_middleware(
    ProblemMiddleware, recorder=Recorder(telemetry=TELEMETRY, log_requests=bool(SETTINGS.access_log))
)
PipeprobeService.add_asgi_middleware(AccessGuard, settings=SETTINGS, telemetry=TELEMETRY)
# The last is the innermost: what lies before it sees every request.
PipeprobeService.add_asgi_middleware(DirectRoutes, target=APP)
