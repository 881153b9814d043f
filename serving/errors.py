"""Everything that pipeprobe raises on purpose, in one tree.

    PipeprobeError
    ├── FrameError                     422  the frame cannot be scored
    │   ├── NotAnImageError            415  not in an accepted image format
    │   ├── TruncatedFrameError        422  an image, but cut short or damaged
    │   └── FrameTooLargeError         413  more bytes or pixels than allowed
    ├── PairError                      500  something about a pair
    │   ├── PairNotFoundError          404  no pair of that name
    │   └── PairInvalidError           500  the pair folder contradicts its manifest
    ├── OperatingPointNotFoundError    404  the pair has no such operating point
    ├── DeviceError                    503  the device asked for cannot be used
    ├── VideoError                     422  an inspection video cannot be read
    ├── ScoringError                   503  frames of a video cannot be scored now
    ├── RequestError                   400  the request itself is malformed
    │   └── BodyTooLargeError          413  more bytes or frames in one request than allowed
    ├── DeadlineExceededError          504  the request was not done in the time it is given
    ├── UnauthorizedError              401  no API key, or none that is known
    ├── ForbiddenError                 403  the API key is for something else
    ├── OverloadedError                503  too much work queued; try again after `retry_after_s`
    │   ├── CallerBusyError            429  this caller has as many requests going as one may have
    │   ├── TooManyJobsError           429  as many video jobs wait as are allowed
    │   └── StorageFullError           507  no disk space is left for another video job
    ├── JobError                       409  the video job is not in a state that allows this
    │   ├── JobsOffError               404  this service takes no video jobs
    │   ├── JobNotFoundError           404  no video job, or none of its files, has that name
    │   └── IdempotencyError           422  the Idempotency-Key was used for another request
    ├── DataError                      400  training data contradict themselves or the format
    └── ConfigError                    400  a setting is unknown or out of range

Each class carries what an RFC 9457 problem needs: the HTTP `status`, a `slug` that names the problem type,
and a `title` that is the same for every occurrence. The message says what is wrong, where, and what to do
about it. It may be shown to whoever sent the request, so it never holds more of their input than its first
few bytes.
"""

from __future__ import annotations

from typing import ClassVar


class PipeprobeError(Exception):
    """Base of all errors that a user or caller can mend; the command lines print them without a traceback."""

    status: ClassVar[int] = 500
    slug: ClassVar[str] = "internal"
    title: ClassVar[str] = "Internal error"


class FrameError(PipeprobeError):
    """The frame cannot be scored; whoever sent it can mend that."""

    status = 422
    slug = "bad-frame"
    title = "Frame cannot be decoded"


class NotAnImageError(FrameError):
    """The bytes are not in any accepted image format."""

    status = 415
    slug = "not-an-image"
    title = "Not an accepted image"


class TruncatedFrameError(FrameError):
    """The bytes begin as an image but are cut short or damaged."""

    slug = "truncated-frame"
    title = "Frame is cut short or damaged"


class FrameTooLargeError(FrameError):
    """The frame has more bytes or more pixels than the limits allow."""

    status = 413
    slug = "frame-too-large"
    title = "Frame is too large"


class PairError(PipeprobeError):
    """Something is wrong with a pair."""

    slug = "pair"
    title = "Pair cannot be used"


class PairNotFoundError(PairError):
    """No pair of that name exists where it was looked for."""

    status = 404
    slug = "pair-not-found"
    title = "No such pair"


class PairInvalidError(PairError):
    """The pair's folder and its manifest contradict each other."""

    slug = "pair-invalid"
    title = "Pair is invalid"


class OperatingPointNotFoundError(PipeprobeError):
    """The pair does not define that operating point."""

    status = 404
    slug = "operating-point-not-found"
    title = "No such operating point"


class DeviceError(PipeprobeError):
    """The device asked for cannot be used; nothing falls back to another one silently."""

    status = 503
    slug = "device"
    title = "Device cannot be used"


class VideoError(PipeprobeError):
    """An inspection video cannot be read."""

    status = 422
    slug = "video"
    title = "Video cannot be read"


class ScoringError(PipeprobeError):
    """Whoever scores the frames of an inspection does not do so now; the video is left for a later call."""

    status = 503
    slug = "scoring"
    title = "Frames cannot be scored now"


class RequestError(PipeprobeError):
    """The request is malformed: a missing part, an unknown parameter, a value out of range."""

    status = 400
    slug = "bad-request"
    title = "Bad request"


class BodyTooLargeError(RequestError):
    """The request's body has more bytes, or its batch more frames, than the limits allow."""

    status = 413
    slug = "body-too-large"
    title = "Request body is too large"


class DeadlineExceededError(PipeprobeError):
    """The request was not answered within the time that the service gives every request."""

    status = 504
    slug = "deadline-exceeded"
    title = "Deadline exceeded"


class UnauthorizedError(PipeprobeError):
    """The request needs an API key and has none that is known."""

    status = 401
    slug = "unauthorized"
    title = "API key needed"


class ForbiddenError(PipeprobeError):
    """The request's API key is for something else."""

    status = 403
    slug = "forbidden"
    title = "API key is for something else"


class OverloadedError(PipeprobeError):
    """More work is queued than can be done in time; `retry_after_s` says when to come back (seconds)."""

    status = 503
    slug = "overloaded"
    title = "Overloaded"

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class CallerBusyError(OverloadedError):
    """This caller has as many requests being answered as one caller may have; others are not affected."""

    status = 429
    slug = "too-many-requests"
    title = "Too many requests at once"


class TooManyJobsError(OverloadedError):
    """As many video jobs wait as are allowed."""

    status = 429
    slug = "too-many-jobs"
    title = "Too many video jobs"


class StorageFullError(OverloadedError):
    """The disk, or the share of it that video jobs may fill, has no room for another one."""

    status = 507
    slug = "storage-full"
    title = "No space for another video"


class JobError(PipeprobeError):
    """The video job is not in a state that allows this."""

    status = 409
    slug = "job-state"
    title = "Not possible in the job's state"


class JobsOffError(JobError):
    """This service takes no video jobs."""

    status = 404
    slug = "jobs-off"
    title = "Video jobs are off"


class JobNotFoundError(JobError):
    """No video job, or none of its files, has that name."""

    status = 404
    slug = "job-not-found"
    title = "No such video job"


class IdempotencyError(JobError):
    """The Idempotency-Key was used for a request that asked for something else."""

    status = 422
    slug = "idempotency-key-reused"
    title = "Idempotency-Key was used before"


class DataError(PipeprobeError):
    """Training data contradict themselves or the format they are declared to be in."""

    status = 400
    slug = "data"
    title = "Training data are invalid"


class ConfigError(PipeprobeError):
    """A setting is unknown or out of range."""

    status = 400
    slug = "config"
    title = "Invalid setting"
