"""Request bodies to the bytes of frames, bounded while they stream in."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass

from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from serving.engine import RequestBudget
from serving.errors import BodyTooLargeError, RequestError
from serving.http.npy import MAX_HEADER_BYTES, NpyFrames, parse_header
from serving.limits import Settings

_MULTIPART = "multipart/form-data"
_MIB = 2**20
# More than this is not needed to know all of an .npy header, or that it is refused.
_NPY_HEAD = MAX_HEADER_BYTES + 12


@dataclass(frozen=True, kw_only=True)
class Upload:
    """One frame of a batch as it came: encoded bytes and the file name given for it, cut to 200 characters."""

    name: str
    data: bytes


async def read_frame(request: Request, budget: RequestBudget, settings: Settings) -> bytes:
    """The one frame of a request: the raw body, or the multipart field `file`.

    Raises `BodyTooLargeError`, `RequestError`, `OverloadedError` and Starlette's `ClientDisconnect`.
    """
    if not _is_multipart(request):
        return b"".join([chunk async for chunk in _bounded(request, budget, settings.max_frame_bytes)])
    uploads = await _read_form(request, budget, settings, max_files=1)
    if len(uploads) != 1:
        raise RequestError("a multipart request must hold one frame in the field `file`; it holds none")
    return uploads[0].data


async def read_batch(request: Request, budget: RequestBudget, settings: Settings) -> list[Upload]:
    """The frames of a batch in their order: every file of a multipart body, whatever its field is called.

    Raises as `read_frame`; also `BodyTooLargeError` for too many frames and `RequestError` for none.
    """
    if not _is_multipart(request):
        raise RequestError(f"a batch must be sent as {_MULTIPART}, one file a frame")
    uploads = await _read_form(request, budget, settings, max_files=settings.max_batch_frames)
    if not uploads:
        raise RequestError("the batch holds no files; send each frame as a file of the multipart body")
    return uploads


async def read_tensors(request: Request, budget: RequestBudget, settings: Settings) -> bytes:
    """The whole body of a request of the Open Inference Protocol; raises as `read_frame`."""
    encoding = request.headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise RequestError(f"Content-Encoding {encoding[:50]!r} is not accepted; send the body as it is")
    return b"".join([chunk async for chunk in _bounded(request, budget, settings.max_body_bytes)])


async def read_raw(request: Request, budget: RequestBudget, settings: Settings, side: int) -> list[bytes]:
    """The frames of an .npy file, uint8 [N, side, side, 3] or [side, side, 3]: side * side * 3 bytes each.

    Raises as `read_frame`: `BodyTooLargeError` for too many frames, and `RequestError` if it is anything else or
    is not exactly as long as its header says. That is checked before any data of a longer file are kept.
    """
    declared: NpyFrames | None = None
    received = bytearray()
    async for chunk in _bounded(request, budget, settings.max_body_bytes):
        received += chunk
        if declared is None:
            declared = parse_header(bytes(received[:_NPY_HEAD]), side=side, max_frames=settings.max_batch_frames)
            _check_declared_length(request, declared)
        if declared is not None and len(received) > declared.size:
            break
    if declared is None or len(received) != declared.size:
        wanted = f"{declared.size} bytes" if declared else "a whole header"
        raise RequestError(f"the .npy file does not have the length that its header declares: {wanted}")
    return declared.frames(received)


def _check_declared_length(request: Request, declared: NpyFrames | None) -> None:
    length = request.headers.get("content-length", "")
    if declared is not None and length.isdecimal() and int(length) != declared.size:
        raise RequestError(f"the body has {length} bytes; by its header the .npy file has {declared.size}")


def _is_multipart(request: Request) -> bool:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower() == _MULTIPART


async def _bounded(request: Request, budget: RequestBudget, limit: int) -> AsyncGenerator[bytes, None]:
    """The body's chunks, refused at its declared length or at the first byte above `limit`."""
    declared = request.headers.get("content-length", "")
    received = int(declared) if declared.isdecimal() else 0
    if received <= limit:
        received = 0
        async for chunk in request.stream():
            received += len(chunk)
            if received > limit:
                break
            budget.grow(len(chunk))
            yield chunk
    if received > limit:
        raise BodyTooLargeError(f"the body has more than the {limit / _MIB:.3g} MiB allowed")


class _MemoryParser(MultiPartParser):
    # The body is bounded; spilling to disk would cost a thread per chunk and leave callers' frames there.
    spool_max_size = 2**40


async def _read_form(request: Request, budget: RequestBudget, settings: Settings, *, max_files: int) -> list[Upload]:
    stream = _bounded(request, budget, settings.max_body_bytes)
    try:
        # One file more than allowed is let through, so that the error is ours.
        form = await _MemoryParser(request.headers, stream, max_files=max_files + 1, max_fields=8).parse()
    except MultiPartException as error:
        if error.message.startswith("Too many files"):
            raise _too_many(max_files) from error
        raise RequestError(f"the multipart body is malformed: {error.message}") from error
    return await _files_of(form, max_files)


async def _files_of(form: FormData, max_files: int) -> list[Upload]:
    uploads = []
    for field, value in form.multi_items():
        if not isinstance(value, UploadFile):
            raise RequestError(
                f"the multipart field {field[:50]!r} is not a file; options go into the query, frames need a file name"
            )
        uploads.append(Upload(name=(value.filename or "")[:200], data=await value.read()))
        await value.close()
    if len(uploads) > max_files:
        raise _too_many(max_files)
    return uploads


def _too_many(max_files: int) -> BodyTooLargeError:
    frames = "frame" if max_files == 1 else "frames"
    return BodyTooLargeError(f"the body holds more than the {max_files} {frames} allowed in one request")
