"""The server of a studio, on a socket that is bound before anything is said of it."""

import errno
import socket
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from secura.errors import ConfigError
from secura.studio.access import Key
from secura.studio.app import studio_app
from secura.studio.studio import Studio

DEFAULT_PORT = 8765


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A studio that can be served."""

    studio: Studio
    """What is shown."""
    address: str
    """Where, with the token."""
    server: uvicorn.Server
    """Not running yet."""
    bound: socket.socket
    """What it will listen to."""

    def serve(self) -> None:
        """Answer until the process is asked to end."""
        with self.bound:
            self.server.run(sockets=[self.bound])


def open_studio(root: Path, *, host: str, port: int | None) -> Opened:
    """Bind a studio to an address.

    Args:
        root: folder of the runs; it need not be there yet.
        host: name or number of the interface.
        port: None is 8765, or a free one where that is taken; 0 is a free one.

    Raises:
        ConfigError: if the folder is a file, or the address cannot be had.
    """
    if root.exists() and not root.is_dir():
        raise ConfigError(f"{root} is a file; name the folder of the runs.")
    bound = _bound(host, port)
    taken = bound.getsockname()[1]
    key = Key.made_for(taken)
    # The studio's events end when the server is asked to, which is made after it.
    servers: list[uvicorn.Server] = []
    studio = Studio(root, is_closing=lambda: any(server.should_exit for server in servers))
    config = uvicorn.Config(
        studio_app(studio, key, host),
        log_level="warning",
        access_log=False,  # addresses hold the token
        server_header=False,
        proxy_headers=False,
        ws="none",
        timeout_graceful_shutdown=3,
    )
    servers.append(uvicorn.Server(config))
    shown = f"[{host}]" if ":" in host else "127.0.0.1" if host == "0.0.0.0" else host
    return Opened(studio=studio, address=f"http://{shown}:{taken}/?token={key.token}", server=servers[0], bound=bound)


def _bound(host: str, port: int | None) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, DEFAULT_PORT if port is None else port), family=family)
    except OSError as problem:
        if port is None and problem.errno == errno.EADDRINUSE:
            return _bound(host, 0)
        raise ConfigError(
            f"{host}, port {port or DEFAULT_PORT} cannot be listened to ({problem.strerror or problem}); give another "
            "with --port, or 0 for one that is free."
        ) from problem
    except OverflowError as problem:
        raise ConfigError(f"--port is {port}; it is 0 to 65535.") from problem
