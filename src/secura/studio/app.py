"""The application of a studio: every page behind its key, and the events that pages wait for.

Every page is whole without JavaScript but for the figures and the conversation. A page that is looked at has an event
told to it whenever what it shows has changed, and asks for itself again.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from secura.errors import SecuraError
from secura.studio.access import Access, Key
from secura.studio.answers import event
from secura.studio.run_pages import RunPages
from secura.studio.start_pages import StartPages
from secura.studio.static_files import StaticFiles
from secura.studio.studio import Studio
from secura.studio.talk_pages import TalkPages

_MOST_BYTES = 200_000
"""Of what a page sends."""
_LOOK_EVERY = 1.0
"""Seconds between two looks at what a page shows."""


def studio_app(studio: Studio, key: Key, host: str) -> Starlette:
    """The application, which only who has the key can ask."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        del app
        yield
        await run_in_threadpool(studio.conversation.end)

    async def events(request: Request) -> Response:
        """An event whenever what the list, or a run, shows has changed."""
        name = request.path_params.get("name")

        async def told() -> AsyncIterator[str]:
            yield "retry: 2000\n\n"
            mark: str | None = None
            silent = 0.0
            while not studio.is_closing():
                now = await run_in_threadpool(studio.watcher.mark, name)
                if now != mark:
                    yield event({"changed": mark is not None})
                    mark, silent = now, 0.0
                elif silent > 15:  # so that a connection which nobody reads any more is noticed
                    yield ": still here\n\n"
                    silent = 0.0
                await asyncio.sleep(_LOOK_EVERY)
                silent += _LOOK_EVERY

        return StreamingResponse(told(), media_type="text/event-stream")

    return Starlette(
        routes=[
            *RunPages(studio).routes(),
            *StartPages(studio).routes(),
            *TalkPages(studio).routes(),
            *StaticFiles().routes(),
            Route("/events", events, methods=["GET"]),
            Route("/events/{name:path}", events, methods=["GET"]),
        ],
        middleware=[
            Middleware(Access, key=key, host=host),
            Middleware(RequestBodyLimitMiddleware, max_body_size=_MOST_BYTES),
        ],
        exception_handlers={HTTPException: studio.sorry, SecuraError: studio.sorry},
        lifespan=lifespan,
    )
