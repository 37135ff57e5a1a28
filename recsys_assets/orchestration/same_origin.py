"""Protects the UI against cross-site requests: only its own pages, and programs that are no browser, may use it.

The UI has no passwords. Without checks, any open web page could send requests to the UI from a person's browser, under
the page's own origin or, after DNS rebinding, under the UI's origin. The checks follow OWASP's cheat sheet on
cross-site request forgery: Host, Origin and Fetch Metadata.
"""

import ipaddress
import socket
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketClose

_GRAPHQL = "/graphql"
_POLICY_VIOLATION = 1008
# These headers prevent clickjacking (another page shows the UI in a frame), and content from other origins.
_HEADERS = {
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": (
        "frame-ancestors 'none'; default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; form-action 'self'"
    ),
}


def is_loopback(host: str) -> bool:
    """Whether a host is a loopback address or `localhost`, which only this machine reaches."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class HostNames:
    """The host names that a browser may use for the UI.

    Args:
        host: the address that the webserver listens on.
        others: host names of a proxy or a forwarded port in front of the webserver.
    """

    def __init__(self, host: str, others: Iterable[str] = ()) -> None:
        machine = () if is_loopback(host) else (socket.gethostname(), f"{socket.gethostname()}.local")
        self._names = {name.lower() for name in ("localhost", host, *machine, *others)}
        self._is_public = not is_loopback(host)

    def __contains__(self, name: str) -> bool:
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return name.lower() in self._names
        # DNS rebinding needs a name: a foreign page can make a name point here, but not an address.
        return self._is_public or address.is_loopback


class SameOriginOnly:
    """ASGI middleware that refuses requests of foreign pages, and passes on requests of own pages and of programs."""

    def __init__(self, app: ASGIApp, names: HostNames) -> None:
        self._app, self._names = app, names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse the request with status 403, or pass it on and add the security headers to the response."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if reason := self._foreign(headers, scope) or _wrong_method(headers, scope):
            await _refuse(reason, scope, receive, send)
            return

        async def send_kept(message: Message) -> None:
            if message["type"] == "http.response.start":
                kept = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    # Appended, not replaced: browsers obey this policy and Dagster's own.
                    kept.append(name, value)
            await send(message)

        await self._app(scope, receive, send_kept)

    def _foreign(self, headers: Headers, scope: Scope) -> str | None:
        hosts = headers.getlist("host")
        if len(hosts) != 1 or _name(hosts[0]) not in self._names:
            asked = ", ".join(hosts) or "none"
            return f"{asked} is no host name of this UI. `recsys-assets serve --allowed-host` allows another one."
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        if origin is not None and urlsplit(origin).netloc.lower() != hosts[0].lower():
            return f"Only pages of this UI may send requests to it, not pages of {origin}."
        if site not in (None, "same-origin", "none") and not _follows_a_link(headers, scope):
            return "Only pages of this UI may send requests to it."
        return None


def _name(host: str) -> str:
    """The host name in a Host header, without the port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _follows_a_link(headers: Headers, scope: Scope) -> bool:
    """Whether a browser opens the UI as a page because a person followed a link on another page."""
    is_page = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
    return is_page and scope["type"] == "http" and scope["method"] == "GET"


def _wrong_method(headers: Headers, scope: Scope) -> str | None:
    """Why a GraphQL request must be refused; None if it is allowed.

    Browsers send GET across sites without Origin, so operations need POST. The GraphQL page for people is no operation.
    """
    if scope["type"] == "http" and scope["path"].rstrip("/") == _GRAPHQL and scope["method"] != "POST":
        return None if "text/html" in headers.get("accept", "") else "Send GraphQL operations by POST."
    return None


async def _refuse(reason: str, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await WebSocketClose(_POLICY_VIOLATION, reason)(scope, receive, send)
    else:
        await PlainTextResponse(f"{reason}\n", status_code=403)(scope, receive, send)
