"""What keeps a service from strangers: a key, and bounds on the bytes and the time of requests."""

import asyncio
import secrets
from collections.abc import Container
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from mrl_experiments.serve.refused import answer

LONGEST = 20  # digits of a content-length


@dataclass(frozen=True)
class Bounds:
    """What requests may take.

    Attributes:
        bytes: Of a request.
        held: Bytes of all requests that are here at once.
        seconds: Until a request has arrived.
    """

    bytes: int
    held: int
    seconds: float


class Guard:
    """Refuses requests without the key and too large ones, before anything of them is read, and slow ones."""

    def __init__(self, app: ASGIApp, bounds: Bounds, key: str | None, free: Container[str]) -> None:
        self.app, self.bounds, self.free = app, bounds, free
        self.key = None if key is None else key.encode()
        self.held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on that may be answered."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers, most = Headers(scope=scope), self.bounds.bytes
        if self.key is not None and scope["path"] not in self.free and not self._fits(headers):
            refused = answer("a key is needed: Authorization: Bearer ...", 401, code="invalid_api_key")
            return await refused(scope, receive, send)
        # In chunks, no length is said: FastAPI counts. Python reads no numbers of thousands of digits.
        length = headers.get("content-length", str(most if "transfer-encoding" in headers else 0))
        if not length.isdecimal() or len(length) > LONGEST or int(length) > most:
            told = f"a request of {length[:LONGEST]} bytes: at most {most:,}"
            return await answer(told, 413, code="too_large")(scope, receive, send)
        if self.held + int(length) > self.bounds.held:
            told = "too many bytes of requests are here; try again"
            return await answer(told, 503, code="overloaded")(scope, receive, send)
        self.held += int(length)
        try:
            await self.app(scope, self._in_time(receive), send)
        finally:
            self.held -= int(length)

    def _in_time(self, receive: Receive) -> Receive:
        """Return what receives a request until it is whole, or too much time is gone."""
        until, whole = asyncio.get_running_loop().time() + self.bounds.seconds, False

        async def received() -> Message:
            nonlocal whole
            try:
                async with asyncio.timeout_at(None if whole else until):
                    message = await receive()
            except TimeoutError as error:
                told = f"the request has not arrived within {self.bounds.seconds:g} seconds"
                raise HTTPException(408, told, {"Connection": "close"}) from error
            whole = not message.get("more_body", False)
            return message

        return received

    def _fits(self, headers: Headers) -> bool:
        kind, _, given = headers.get("authorization", "").partition(" ")
        assert self.key is not None
        return kind.lower() == "bearer" and secrets.compare_digest(
            given.strip(" ").encode("latin-1"), self.key
        )


def impatient(seconds: float) -> type[asyncio.Protocol]:
    """Return uvicorn's protocol that ends connections on which the head of a request does not come in time.

    uvicorn itself ends those on which nothing comes after an answer; for a first byte, and within a head, it
    waits without end.
    """

    class Impatient(AutoHTTPProtocol):  # type: ignore[misc,valid-type]
        timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._wait(transport)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:  # its head is here
                self._stop()
            elif self.timer is None:
                self._wait(self.transport)

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop()
            super().connection_lost(exc)

        def _wait(self, transport: asyncio.Transport) -> None:
            self.timer = asyncio.get_running_loop().call_later(seconds, transport.abort)

        def _stop(self) -> None:
            if self.timer is not None:
                self.timer.cancel()
                self.timer = None

    return Impatient
