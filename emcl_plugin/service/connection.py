"""One HTTP connection of the service: closed where the client is late or speaks something else."""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from http import HTTPStatus
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from emcl_plugin.service.errors import failure

CONNECTIONS = 256
"""Open connections, beyond which requests get status 503; twice as many, and more are cut off."""
PATIENCE = 5
"""Seconds that a client may take for a request's head, for its body, for reading 64 KiB of an
answer, and between requests."""

_CLOSE = {"connection": "close"}


class Connection(H11Protocol):
    """HTTP over a connection that is closed if the client is late, or speaks another language."""

    awaited_after: Any = "nothing yet"
    heard_all = refused = False
    late: asyncio.TimerHandle | None = None
    unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.app = self._answer
        transport.set_write_buffer_limits(0)  # pause_writing tells of anything that is not taken
        if len(self.connections) > 2 * CONNECTIONS:
            transport.abort()
        else:
            self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        _cancel(self.late)
        _cancel(self.unread)

    def data_received(self, data: bytes) -> None:
        if not self.refused:
            super().data_received(data)
            self._await_head()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Whether to stay: who has nothing more to ask may still wait for an answer."""
        self.heard_all = True
        last = self.cycle
        return not (last is None or last.response_complete or last.more_body)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.heard_all and self.cycle.response_complete:
            self.transport.close()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._await_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        _cancel(self.unread)

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP is told so, in JSON; what came after the answer to its head is not."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.close()
            return
        self.refused = True
        error = sys.exc_info()[1]  # h11's, which uvicorn handles at this moment
        status = HTTPStatus(getattr(error, "error_status_hint", 400))
        received = str(error or msg).partition(": bytearray")[0]
        advice = "send HTTP/1.1, without TLS, and with less than 16 KiB of headers"
        answer = failure(status, "this is not a valid request", received, advice, headers=_CLOSE)
        for event in (
            h11.Response(
                status_code=status, reason=status.phrase.encode(), headers=answer.raw_headers
            ),
            h11.Data(data=bytes(answer.body)),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        if self.cycle:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.write_eof()  # a close with unread bytes would take the answer back
        self.loop.call_later(PATIENCE, self.transport.abort)

    def _await_head(self) -> None:
        last = self.cycle
        if last is not self.awaited_after and (last is None or last.response_complete):
            self.awaited_after = last
            _cancel(self.late)
            self.late = self.loop.call_later(PATIENCE, self._end, last)

    def _end(self, last: Any) -> None:
        if self.cycle is last:
            self.timeout_keep_alive_handler()

    def _await_reading(self) -> None:
        left = self.transport.get_write_buffer_size()
        self.unread = self.loop.call_later(PATIENCE, self._end_unread, left)

    def _end_unread(self, before: int) -> None:
        if before - self.transport.get_write_buffer_size() < 1 << 16:
            self.transport.abort()
        else:
            self._await_reading()

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        """The application's answer, sent once the request's body has come or is late.

        A connection that is closed before its client has sent all takes the answer back.
        """
        end = self.loop.time() + PATIENCE
        whole = False

        async def receive_on() -> Any:
            nonlocal whole
            message = await receive()
            whole = not message.get("more_body", False)
            return message

        async def receive_all() -> None:
            while not whole:
                await receive_on()

        async def send_on(message: Any) -> None:
            if not (whole or self.cycle.response_started or self.cycle.waiting_for_100_continue):
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(receive_all(), end - self.loop.time())
            await send(message)

        app: Any = self.config.loaded_app
        if len(self.connections) > CONNECTIONS or len(self.tasks) > CONNECTIONS:
            got = f"more than {CONNECTIONS} at a time"
            app = failure(503, "too many connections", got, "try again later", headers=_CLOSE)
        elif {b"content-length", b"transfer-encoding"} <= {name for name, _ in scope["headers"]}:
            got = "both content-length and transfer-encoding"
            app = failure(400, "the body has two lengths", got, "send one of them", headers=_CLOSE)
        try:
            await app(scope, receive_on, send_on)
        except asyncio.CancelledError:  # the service ends, and the client does not read
            self.cycle.disconnected = True
            self.transport.abort()


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer:
        timer.cancel()
