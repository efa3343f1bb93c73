"""Effects. A reverse proxy on loopback that does to a real S3 server's requests and answers what networks do.

One fault a request at most, drawn from the seed, the request's method and path, and how often it has come before: the
third look at one key fares the same in every run, however the threads fall. The bucket's name does not count.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import socket
import struct
import threading
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

from aiohttp import ClientConnectionError, ClientSession, StreamReader, TCPConnector, web
from multidict import CIMultiDict
from yarl import URL

_BLOCK = 64 << 10
_OF_THE_HOP = {"connection", "keep-alive", "transfer-encoding", "expect", "te", "trailer", "upgrade"}
_CODES = {503: "SlowDown", 500: "InternalError", 403: "ExpiredToken", 400: "ExpiredToken"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """How often each fault comes, from 0 to 1; they add up to at most 1, `delay` apart."""

    slow_down: float = 0.0
    """503 SlowDown; the server does not see the request."""
    error: float = 0.0
    """500 InternalError; the server does not see the request."""
    reset_before: float = 0.0
    """The connection is reset; the server does not see the request."""
    reset_after: float = 0.0
    """The server does what was asked, and the connection is reset instead of its answer."""
    error_after: float = 0.0
    """The server does what was asked, and 500 is answered."""
    cut: float = 0.0
    """The connection ends in the middle of the answer's body."""
    flip_answer: float = 0.0
    """One bit of the answer's body is wrong."""
    flip_request: float = 0.0
    """One bit of the request's body is wrong when the server reads it."""
    delay: float = 0.0
    """The request waits for `delay_seconds`, whatever else happens to it."""
    delay_seconds: float = 0.0
    times: int = 1 << 60
    """After so many faults in all, none comes any more."""
    only: str = ""
    """A regular expression; requests whose `METHOD /bucket/key?query` it is not found in are left alone."""


_SETTINGS = ("delay", "delay_seconds", "times", "only")
FAULTS = tuple(field.name for field in fields(Rates) if field.name not in _SETTINGS)


class FaultProxy:
    """The proxy; `rates` may be replaced, and `counts` read, at any moment and from any thread."""

    def __init__(self, upstream: str, seed: int = 0):
        self.rates = Rates()
        self.refusal = 0
        """If not 0, every request is answered so, as one whose credentials have expired."""
        self.endpoint = ""
        self._upstream, self._seed = upstream, seed
        self._counts: Counter[str] = Counter()
        self._seen: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._server: web.Server | None = None
        self._listener: asyncio.Server | None = None
        self._session: ClientSession | None = None

    @property
    def counts(self) -> dict[str, int]:
        """Since the last `reset`: `requests`, `forwarded`, and each fault by its name."""
        with self._lock:
            return dict(self._counts)

    def reset(self, rates: Rates | None = None) -> None:
        """Counts anew, from no fault or from these rates on; requests come for the first time again."""
        with self._lock:
            self._counts.clear()
            self._seen.clear()
            self.rates, self.refusal = rates or Rates(), 0

    @contextmanager
    def down(self) -> Iterator[None]:
        """Nobody listens for as long as the block lasts, and every open connection is reset."""
        self._call(self._stop())
        try:
            yield
        finally:
            self._call(self._listen(URL(self.endpoint).port or 0))

    @classmethod
    @contextmanager
    def serve(cls, upstream: str, seed: int = 0) -> Iterator[FaultProxy]:
        """The proxy, until the end of the block."""
        proxy = cls(upstream, seed)
        thread = threading.Thread(target=proxy._loop.run_forever, daemon=True)
        thread.start()
        try:
            proxy._call(proxy._start())
            yield proxy
        finally:
            proxy._call(proxy._close())
            proxy._loop.call_soon_threadsafe(proxy._loop.stop)
            thread.join()
            proxy._loop.close()

    def _call(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=60)

    async def _start(self) -> None:
        self._session = ClientSession(connector=TCPConnector(limit=0), auto_decompress=False)
        self._server = web.Server(self._answer)
        await self._listen(0)

    async def _listen(self, port: int) -> None:
        assert self._server is not None
        self._listener = await self._loop.create_server(self._server, "127.0.0.1", port)
        self.endpoint = f"http://127.0.0.1:{self._listener.sockets[0].getsockname()[1]}"

    async def _stop(self) -> None:
        assert self._server is not None
        assert self._listener is not None
        self._listener.close()
        for connection in list(self._server.connections):
            _reset(connection.transport)

    async def _close(self) -> None:
        assert self._server is not None
        assert self._session is not None
        await self._stop()
        await self._server.shutdown(1)
        await self._session.close()

    def _drawn(self, request: web.BaseRequest) -> tuple[str, random.Random]:
        """The fault of this request, or nothing; and the source of further chance."""
        key = request.raw_path.partition("?")[0].removeprefix("/").partition("/")[2]
        part = request.query.get("partNumber", request.query.get("prefix", ""))
        path = f"{request.method} {key} {part}"
        with self._lock:
            rates = self.rates
            self._counts["requests"] += 1
            self._seen[path] += 1
            chance = random.Random(f"{self._seed} {path} {self._seen[path]}")
            if rates.only and not re.search(rates.only, f"{request.method} {request.raw_path}"):
                return "", chance
            if sum(self._counts[name] for name in FAULTS) >= rates.times:
                return "", chance
            drawn = chance.random()
            for name in FAULTS:
                drawn -= getattr(rates, name)
                if drawn < 0:
                    return name, chance
            return "", chance

    def _count(self, name: str) -> None:
        with self._lock:
            self._counts[name] += 1

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        fault, chance = self._drawn(request)
        if request.headers.get("Expect", "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0
        if chance.random() < self.rates.delay:
            self._count("delay")
            await asyncio.sleep(self.rates.delay_seconds)
        if self.refusal:
            return await self._refused(request, self.refusal)
        match fault:
            case "slow_down" | "error":
                self._count(fault)
                return await self._refused(request, 503 if fault == "slow_down" else 500)
            case "reset_before":
                return self._broken(request, fault)
        try:
            return await self._forwarded(request, fault, chance)
        except ClientConnectionError:  # the server itself broke off, or our client did
            return self._broken(request, "upstream_lost")

    async def _forwarded(
        self, request: web.BaseRequest, fault: str, chance: random.Random
    ) -> web.StreamResponse:
        assert self._session is not None
        self._count("forwarded")
        size = request.content_length or 0
        flips = fault == "flip_request" and size > 0
        if flips:
            self._count(fault)
        async with self._session.request(
            request.method,
            URL(self._upstream + request.raw_path, encoded=True),
            headers=_passed_on(request.headers),
            data=_blocks(request.content, chance.randrange(8 * size) if flips else None) if size else None,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            allow_redirects=False,
        ) as found:
            if fault == "reset_after":
                return self._broken(request, fault)
            if fault == "error_after":
                self._count(fault)
                return await self._refused(request, 500)
            answer = web.StreamResponse(
                status=found.status, reason=found.reason, headers=_passed_on(found.headers)
            )
            await answer.prepare(request)
            if request.method == "HEAD":
                return answer
            body = await found.read() if fault in ("cut", "flip_answer") else b""
            if not body:
                async for block in found.content.iter_chunked(_BLOCK):
                    await answer.write(block)
                return answer
            self._count(fault)
            at = chance.randrange(8 * len(body))
            if fault == "cut":
                await answer.write(body[: at // 8])
                return self._broken(request, "")
            await answer.write(_flipped(body, at))
            return answer

    async def _refused(self, request: web.BaseRequest, status: int) -> web.Response:
        async for _ in request.content.iter_chunked(_BLOCK):
            pass
        body = f"<Error><Code>{_CODES[status]}</Code><Message>as the proxy was told</Message></Error>"
        return web.Response(
            status=status,
            body=b"" if request.method == "HEAD" else body.encode(),
            content_type="application/xml",
        )

    def _broken(self, request: web.BaseRequest, fault: str) -> web.Response:
        """The connection is gone, so that nobody reads what is returned."""
        if fault:
            self._count(fault)
        _reset(request.transport)
        return web.Response()


def _passed_on(headers: Mapping[str, str]) -> CIMultiDict[str]:
    """What goes through unchanged, `Host` too, for the signature covers it."""
    return CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in _OF_THE_HOP)


def _reset(transport: asyncio.BaseTransport | None) -> None:
    if transport is None or (plug := transport.get_extra_info("socket")) is None:
        return
    with contextlib.suppress(OSError):  # the other side was quicker
        plug.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert isinstance(transport, asyncio.Transport)
    transport.abort()


async def _blocks(content: StreamReader, flipped_bit: int | None) -> AsyncIterator[bytes]:
    position = 0
    async for block in content.iter_chunked(_BLOCK):
        if flipped_bit is not None and position <= flipped_bit // 8 < position + len(block):
            yield _flipped(block, flipped_bit - 8 * position)
        else:
            yield block
        position += len(block)


def _flipped(data: bytes, bit: int) -> bytes:
    wrong = bytearray(data)
    wrong[bit // 8] ^= 1 << bit % 8
    return bytes(wrong)
