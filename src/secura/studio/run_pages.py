"""The pages of runs: the list, how far one is, and what came of it."""

from dataclasses import asdict
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from secura.report.run_page import run_page
from secura.report.step_figures import step_figures
from secura.studio.access import SHOWN_POLICY
from secura.studio.answers import text_of
from secura.studio.cards import card
from secura.studio.entries import PAGES
from secura.studio.progress import step_lines
from secura.studio.studio import Studio

_MOST_SHOWN = 100
"""Entries of the list, unless all are asked for."""


class RunPages:
    """What is shown of runs."""

    def __init__(self, studio: Studio) -> None:
        self._studio = studio

    def routes(self) -> list[Route]:
        """Where they are."""
        return [
            Route("/", self._home, methods=["GET"]),
            Route("/run/{name:path}", self._run, methods=["GET"]),
            Route("/figures/{name:path}", self._figures, methods=["GET"]),
            Route("/result/{name:path}", self._result, methods=["GET"]),
            Route("/page/{name:path}", self._page, methods=["GET"]),
        ]

    async def _home(self, request: Request) -> Response:
        """Every run of the folder, and every page."""
        found = await run_in_threadpool(self._studio.watcher.all)
        everything = "all" in request.query_params
        shown = found if everything else found[:_MOST_SHOWN]
        cards = await run_in_threadpool(lambda: [card(each) for each in shown])
        return self._studio.answer(
            "list.html.jinja", cards=cards, hidden=len(found) - len(shown), folder=str(self._studio.root)
        )

    async def _run(self, request: Request) -> Response:
        """One run: how far it is, what came of it, what can be done with it."""
        progress = await self._studio.found(request)
        return await run_in_threadpool(self._studio.run_page, progress)

    async def _figures(self, request: Request) -> Response:
        """The figures of a run's steps so far, for plotly."""
        progress = await self._studio.found(request)

        def drawn() -> list[dict[str, Any]]:
            return [asdict(figure) for figure in step_figures(step_lines(progress.entry))]

        return JSONResponse(await run_in_threadpool(drawn))

    async def _result(self, request: Request) -> Response:
        """What came of it: its page, in a frame."""
        progress = await self._studio.found(request)
        if not progress.entry.is_done or progress.entry.kind == "sequence":
            raise HTTPException(404, f"{progress.name} has no page yet.")
        return self._studio.answer("result.html.jinja", card=card(progress), can_talk=progress.entry.can_be_talked_to)

    async def _page(self, request: Request) -> Response:
        """The page itself, whose scripts are of no origin: it may come from elsewhere."""
        progress = await self._studio.found(request)
        entry = progress.entry
        if entry.kind == "run":
            text = await run_in_threadpool(run_page, entry.folder)
        elif entry.kind in PAGES:
            file = entry.folder / PAGES[entry.kind]
            if not file.resolve().is_relative_to(self._studio.root.resolve()):
                raise HTTPException(404, f"{entry.name} has no page in its folder.")
            text = text_of(file)
        else:
            raise HTTPException(404, f"{entry.name} has no page.")
        return HTMLResponse(text, headers={"Content-Security-Policy": SHOWN_POLICY})
