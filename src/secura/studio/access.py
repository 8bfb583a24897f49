"""Who may ask the studio: whoever has its token, from a page of its own, by an address that is its own.

The token comes once, in the address that the command prints, and is traded for a cookie that no script can read and
that no other site's request carries. A name that an attacker's DNS leads here (rebinding) is refused by the Host
header; a form of another site by the Origin header.
"""

import ipaddress
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "frame-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'self'"
)
"""Of the studio's own pages: nothing inline, nothing from elsewhere."""
FIGURES_POLICY = PAGE_POLICY.replace("style-src 'self'", "style-src 'self' 'unsafe-inline'")
"""Of one with figures: plotly writes styles, though no script, into the page."""
SHOWN_POLICY = (
    "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; form-action 'none'; base-uri 'none'; frame-ancestors 'self'"
)
"""Of a page that lies in a folder, and so may be another's: its scripts are of no origin, and reach nothing."""

LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""Names of the interface that no other machine reaches."""
_SAFE = ("GET", "HEAD")
# The page that sets the cookie asks for the next one itself. A redirect would still be a request of the site that the
# link stood on, such as a terminal in a browser, and a strict cookie would stay behind.
_COME_IN = (
    '<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0;url=/"><title>secura studio</title>'
)


@dataclass(frozen=True, kw_only=True)
class Key:
    """What opens a studio."""

    token: str
    """In the address that is printed."""
    session: str
    """In the cookie."""
    cookie: str
    """Its name. Cookies know no ports, so two studios of one machine must not share it."""

    @classmethod
    def made_for(cls, port: int) -> "Key":
        """A new key."""
        return cls(token=secrets.token_urlsafe(32), session=secrets.token_urlsafe(32), cookie=f"secura_studio_{port}")


class Access:
    """Lets through who has the key, and sets the headers that every page of ours has."""

    def __init__(self, app: ASGIApp, key: Key, host: str) -> None:
        self._app = app
        self._key = key
        self._names: Collection[str] = LOOPBACK if host in LOOPBACK else (*LOOPBACK, host.lower())
        self._any_number = host not in LOOPBACK

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or hand on."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refused = self._refusal(scope["method"], headers, scope["query_string"].decode("latin-1"), scope["path"])

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                _add_headers(MutableHeaders(scope=message))
            await send(message)

        await (refused or self._app)(scope, receive, send_with_headers)

    def _refusal(self, method: str, headers: Headers, query: str, path: str) -> Response | None:
        """What is answered in place of the page; None where the page may be had."""
        host = headers.get("host", "")
        if not self._is_ours(host):
            return PlainTextResponse(f"The studio is not called {host!r}; open the address that it printed.", 400)
        given = parse_qs(query).get("token")
        if given is not None and path == "/" and method == "GET":
            if not _same(given[0], self._key.token):
                return PlainTextResponse("This token is not the studio's; open the address that it printed last.", 403)
            answer = HTMLResponse(_COME_IN)
            answer.set_cookie(self._key.cookie, self._key.session, httponly=True, samesite="strict", path="/")
            return answer
        cookie = cookie_parser(headers.get("cookie", "")).get(self._key.cookie, "")
        if not _same(cookie, self._key.session):
            return PlainTextResponse("Open the address that secura studio printed; it holds the key.", 401)
        if method not in _SAFE and urlsplit(headers.get("origin", "")).netloc != host:
            return PlainTextResponse("This was not sent by a page of the studio.", 403)
        return None

    def _is_ours(self, host: str) -> bool:
        """Whether a Host header is one of the studio's own names; its port may be that of a tunnel."""
        try:
            name = urlsplit(f"//{host}").hostname
        except ValueError:
            return False
        if name is None:
            return False
        return name in self._names or (self._any_number and _is_number(name))


def _is_number(name: str) -> bool:
    """Whether a host is an IP address, which no DNS has led here."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _same(given: str, own: str) -> bool:
    return secrets.compare_digest(given.encode(), own.encode())


def _add_headers(headers: MutableHeaders) -> None:
    for name, value in (
        ("Content-Security-Policy", PAGE_POLICY),
        ("X-Content-Type-Options", "nosniff"),
        # Forms of our own pages must name their origin, which `no-referrer` would hide.
        ("Referrer-Policy", "same-origin"),
        ("Cross-Origin-Opener-Policy", "same-origin"),
        ("Cross-Origin-Resource-Policy", "same-origin"),
        ("Cache-Control", "no-store"),
    ):
        headers.setdefault(name, value)
