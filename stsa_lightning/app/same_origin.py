"""Whose requests a server on this machine answers: those of its own pages, under its own names.

Any page in the user's browser may send requests to this machine. A browser says whose page sent one (`Origin`); and a
page that has its own name point here, which makes it seem our own, is given away by that name (`Host`).
"""

from __future__ import annotations

import ipaddress
import logging
import socket
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_log = logging.getLogger(__name__)


class TrustedHosts:
    """Requests that are answered.

    Args:
        host: the address that the server listens on: it answers to that and to the names of loopback. Where it stands
            for all addresses, as 0.0.0.0 does, to any address, which no name can be made to look like, and to the
            machine's own name.
        names: further names that browsers know the server by.
    """

    def __init__(self, host: str = "127.0.0.1", names: Iterable[str] = ()) -> None:
        self.host = host
        self._named = {name.lower() for name in names}
        self._own = {"localhost", "127.0.0.1", "::1", host.lower()} | self._named
        address = _address(host)
        self._any_address = address is not None and address.is_unspecified
        if self._any_address:
            self._own |= {socket.gethostname().lower(), socket.getfqdn().lower()}

    def refusal(self, headers: Headers) -> str | None:
        """Why a request is not answered; None: it is."""
        host = headers.get("host", "")
        name = _name(f"//{host}")
        if not (name in self._own or (self._any_address and _address(name) is not None)):
            return f"this server is not called {name!r}; start it with --allow-host {name or 'NAME'} if it is"
        for origin in headers.getlist("origin"):
            if origin.partition("://")[2] != host and _name(origin) not in self._named:
                return f"requests from pages of {origin} are refused"
        return None


def _name(url: str) -> str:
    """Lower-case name or address in a URL, without brackets and port; empty where there is none."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


def same_origin_only(trusted: TrustedHosts) -> list[Middleware]:
    """What an application puts before all of its routes."""
    return [Middleware(SameOriginMiddleware, trusted=trusted)]


class SameOriginMiddleware:
    """Refuses foreign requests before their bodies are read; failures of others are logged in one line."""

    def __init__(self, app: ASGIApp, trusted: TrustedHosts) -> None:
        self.app, self.trusted = app, trusted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        refusal = self.trusted.refusal(Headers(scope=scope))
        if refusal is not None and scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": refusal})
        elif refusal is not None:
            await PlainTextResponse(f"{refusal}\n", 403, {"Connection": "close"})(scope, receive, send)
        else:
            await self._answered(scope, receive, send)

    async def _answered(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def sent(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self.app(scope, receive, sent)
        except Exception as error:  # of any kind: requests that no page of ours makes meet every corner of the routes
            _log.error("%s %s failed: %s: %s", scope.get("method"), scope["path"], type(error).__name__, error)
            if not begun and scope["type"] == "http":
                await PlainTextResponse("this request cannot be answered\n", 500)(scope, receive, send)
