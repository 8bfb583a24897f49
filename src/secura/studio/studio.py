"""What every page of a studio knows: its folder, its processes, its conversation, and how a page is answered."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from plotly.offline import get_plotlyjs_version
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from secura.errors import InputError
from secura.experiments.files import CONFIG_FILE
from secura.experiments.settings.layers import read_yaml
from secura.report.templates import templates
from secura.studio import form as forms
from secura.studio.access import FIGURES_POLICY
from secura.studio.answers import text_of
from secura.studio.cards import card, link
from secura.studio.conversation import Conversation
from secura.studio.entries import find_entries, pages_about
from secura.studio.progress import Progress, Watcher
from secura.studio.started import Processes


class Studio:
    """A folder of runs, and what goes on in it."""

    def __init__(self, root: Path, *, is_closing: Callable[[], bool] = lambda: False) -> None:
        self.root = root
        self.processes = Processes(root)
        self.watcher = Watcher(root, self.processes)
        self.conversation = Conversation()
        self.is_closing = is_closing
        """Whether the server ends, and with it the events that pages wait for."""
        self._templates = templates(escaped=True, package="secura.studio")

    async def found(self, request: Request) -> Progress:
        """The run that an address names."""
        name = request.path_params["name"]
        progress = await run_in_threadpool(self.watcher.of, name)
        if progress is None:
            raise HTTPException(404, f"There is no run called {name!r} in {self.root}.")
        return progress

    def answer(self, template: str, status: int = 200, **values: Any) -> Response:
        """A page."""
        text = self._templates.get_template(template).render(plotly_version=get_plotlyjs_version(), **values)
        return HTMLResponse(text, status)

    async def sorry(self, request: Request, problem: Exception) -> Response:
        """An error as the one sentence it is."""
        status = problem.status_code if isinstance(problem, HTTPException) else 409
        said = problem.detail if isinstance(problem, HTTPException) else str(problem)
        if "text/html" not in request.headers.get("accept", ""):
            return JSONResponse({"error": said}, status)
        return self.answer("sorry.html.jinja", status, said=said)

    def run_page(self, progress: Progress, problem: str = "", status: int = 200) -> Response:
        """How far a run is; `problem` is why something could not be done to it."""
        entry = progress.entry
        settings = text_of(entry.folder / CONFIG_FILE) or text_of(self.processes.settings_file(entry.name))
        is_run = entry.kind == "run"
        again = {} if not is_run else self.form_of_run(progress)
        answer = self.answer(
            "run.html.jinja",
            status,
            card=card(progress),
            refusal=problem,
            can_stop=progress.can_stop,
            can_resume=progress.can_resume,
            can_ask=is_run and progress.state == "done" and entry.can_be_talked_to,
            stopping=progress.state == "stopping",
            refused=progress.state == "refused",
            has_page=entry.is_done and entry.kind != "sequence",
            can_talk=entry.can_be_talked_to and progress.state == "done",
            has_steps=entry.kind in ("run", "sequence"),
            pages=[link(each) for each in pages_about(find_entries(self.root), entry.folder)],
            output=self.processes.output(entry.name),
            settings=settings,
            begun_as=progress.started.shown if progress.started else "",
            again=bool(again),
            **(self.form_parts(again, progress.said) if is_run and progress.state == "refused" else {"fields": ()}),
        )
        answer.headers["Content-Security-Policy"] = FIGURES_POLICY
        return answer

    def form_of_run(self, progress: Progress) -> dict[str, str]:
        """The form that a run was begun with; one begun in a terminal has its settings in its folder."""
        own = self.processes.settings_file(progress.name)
        try:
            values = read_yaml(own) if own.is_file() else forms.set_by_hand(progress.entry.settings)
        except InputError:
            return {}
        return forms.form_of(values)

    def form_parts(
        self, given: Mapping[str, str], problem: str = "", field: str = "", shown: str = "", command: str = ""
    ) -> dict[str, Any]:
        """What the template of the form takes."""
        field = field or forms.field_of(problem)
        return {
            "fields": forms.FIELDS,
            "given": given,
            "problem": problem,
            "wrong": field,
            "shown": shown,
            "command": command,
            "going_on": [each.name for each in self.processes.going_on()],
        }
