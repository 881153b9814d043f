"""A client of the scoring service, sync and async. Needs httpx, NumPy and Pillow, and nothing else of pipeprobe.

from serving.client import Client

with Client("http://127.0.0.1:3000") as client:
    score = client.score("frame.jpg")
    results = client.score_many(paths)      # a Score or a Failure for each, in order
"""

from __future__ import annotations

from serving.client.asynchronous import AsyncClient
from serving.client.bar import progress_bar
from serving.client.core import Batching
from serving.client.errors import (
    BadAnswerError,
    ClientError,
    ConnectionFailedError,
    FrameRefusedError,
    Problem,
    ServiceError,
    TimedOutError,
    UnauthorisedError,
    UnavailableError,
    UnreadableError,
)
from serving.client.results import Failure, Model, Score
from serving.client.retries import Retries
from serving.client.sync import Client
from serving.client.videos import VideoFailedError, VideoFinding, VideoJob, VideoOptions, VideoResult

__all__ = [
    "AsyncClient",
    "BadAnswerError",
    "Batching",
    "Client",
    "ClientError",
    "ConnectionFailedError",
    "Failure",
    "FrameRefusedError",
    "Model",
    "Problem",
    "Retries",
    "Score",
    "ServiceError",
    "TimedOutError",
    "UnauthorisedError",
    "UnavailableError",
    "UnreadableError",
    "VideoFailedError",
    "VideoFinding",
    "VideoJob",
    "VideoOptions",
    "VideoResult",
    "progress_bar",
]
