"""The stylesheets and scripts of a studio: its own, those of the report pages, and plotly."""

from plotly.offline import get_plotlyjs
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from secura.report.page_parts import own_file
from secura.report.templates import templates

_DAY = {"Cache-Control": "private, max-age=86400"}
"""Of what is asked for by its version."""


class StaticFiles:
    """The files, read once."""

    def __init__(self) -> None:
        report, own = templates(escaped=True), templates(escaped=True, package="secura.studio")
        style, program = "text/css", "text/javascript"
        self._files: dict[str, tuple[str, str]] = {
            "sheet.css": (style, own_file(report, "sheet.css") + own_file(report, "forget.css")),
            "studio.css": (style, own_file(own, "studio.css")),
            "figures.js": (program, own_file(report, "figures.js")),
            "studio.js": (program, own_file(own, "studio.js")),
            "talk.js": (program, own_file(own, "talk.js")),
            "plotly.js": (program, get_plotlyjs()),
        }

    def routes(self) -> list[Route]:
        """Where they are."""
        return [
            Route("/static/{file}", self._static, methods=["GET"]),
            Route("/favicon.ico", self._no_icon, methods=["GET"]),
        ]

    async def _static(self, request: Request) -> Response:
        kind, text = self._files.get(request.path_params["file"], ("", ""))
        if not kind:
            raise HTTPException(404, "There is no such file.")
        return Response(text, media_type=kind, headers=_DAY if request.query_params.get("v") else {})

    async def _no_icon(self, request: Request) -> Response:
        """What a browser asks for by itself."""
        del request
        return Response(status_code=204)
