"""The pages of a studio, and what they ask.

Every page is whole without JavaScript but for the figures and the conversation. A page that is looked at has an event
told to it whenever what it shows has changed, and asks for itself again.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote

from plotly.offline import get_plotlyjs, get_plotlyjs_version
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from secura.errors import InputError, SecuraError
from secura.experiments.export import base_of
from secura.experiments.files import ADAPTER_FOLDER, BASE_RECORD, CONFIG_FILE
from secura.experiments.models.base_record import read_base_record
from secura.experiments.settings.layers import read_yaml
from secura.file_names import file_name
from secura.report.page_parts import own_file
from secura.report.run_page import run_page
from secura.report.step_figures import step_figures
from secura.report.templates import templates
from secura.studio import form as forms
from secura.studio.access import FIGURES_POLICY, SHOWN_POLICY, Access, Key
from secura.studio.cards import card, link
from secura.studio.conversation import MOST_TOKENS, Conversation
from secura.studio.entries import PAGES, find_entries, folder_called, pages_about
from secura.studio.progress import STATE_NAMES, Progress, Watcher, step_lines
from secura.studio.started import SETTINGS_FILE, Processes

_MOST_SHOWN = 100
"""Entries of the list, unless all are asked for."""
_MOST_BYTES = 200_000
"""Of what a page sends."""
_LOOK_EVERY = 1.0
"""Seconds between two looks at what a page shows."""
_DAY = {"Cache-Control": "private, max-age=86400"}


class Studio:
    """What is shown of a folder, and done in it."""

    def __init__(self, root: Path, *, is_closing: Callable[[], bool] = lambda: False) -> None:
        """`is_closing` says whether the server ends, and with it the events that pages wait for."""
        self.root = root
        self.processes = Processes(root)
        self.watcher = Watcher(root, self.processes)
        self.conversation = Conversation()
        self._is_closing = is_closing
        self._templates = templates(escaped=True, package="secura.studio")
        self._static = self._files()

    def app(self, key: Key, host: str) -> Starlette:
        """The application, which only who has the key can ask."""

        @asynccontextmanager
        async def lifespan(app: Starlette) -> AsyncIterator[None]:
            del app
            yield
            await run_in_threadpool(self.conversation.end)

        get, post = ["GET"], ["POST"]
        return Starlette(
            routes=[
                Route("/", self.home, methods=get),
                Route("/new", self.new, methods=get),
                Route("/new", self.start, methods=post),
                Route("/run/{name:path}", self.run, methods=get),
                Route("/figures/{name:path}", self.figures, methods=get),
                Route("/stop/{name:path}", self.stop, methods=post),
                Route("/resume/{name:path}", self.resume, methods=post),
                Route("/ask/{what}/{name:path}", self.ask, methods=post),
                Route("/result/{name:path}", self.result, methods=get),
                Route("/page/{name:path}", self.page, methods=get),
                Route("/talk/{name:path}", self.talk, methods=get),
                Route("/say/{name:path}", self.say, methods=post),
                Route("/conversation/{what}", self.converse, methods=post),
                Route("/events", self.events, methods=get),
                Route("/events/{name:path}", self.events, methods=get),
                Route("/static/{file}", self.static, methods=get),
                Route("/favicon.ico", self.no_icon, methods=get),
            ],
            middleware=[
                Middleware(Access, key=key, host=host),
                Middleware(RequestBodyLimitMiddleware, max_body_size=_MOST_BYTES),
            ],
            exception_handlers={HTTPException: self._sorry, SecuraError: self._sorry},
            lifespan=lifespan,
        )

    # ---- the list, and a run ----

    async def home(self, request: Request) -> Response:
        """Every run of the folder, and every page."""
        found = await run_in_threadpool(self.watcher.all)
        everything = "all" in request.query_params
        shown = found if everything else found[:_MOST_SHOWN]
        cards = await run_in_threadpool(lambda: [card(each) for each in shown])
        return self._answer("list.html.jinja", cards=cards, hidden=len(found) - len(shown), folder=str(self.root))

    async def run(self, request: Request) -> Response:
        """One run: how far it is, what came of it, what can be done with it."""
        progress = await self._found(request)
        return await run_in_threadpool(self._run_page, progress)

    def _run_page(self, progress: Progress, problem: str = "", status: int = 200) -> Response:
        entry = progress.entry
        settings = _text_of(entry.folder / CONFIG_FILE) or _text_of(self.processes.settings_file(entry.name))
        is_run = entry.kind == "run"
        again = {} if not is_run else self._form_of_run(progress)
        answer = self._answer(
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
            **(self._form_parts(again, progress.said) if is_run and progress.state == "refused" else _NO_FORM),
        )
        answer.headers["Content-Security-Policy"] = FIGURES_POLICY
        return answer

    async def figures(self, request: Request) -> Response:
        """The figures of a run's steps so far, for plotly."""
        progress = await self._found(request)

        def drawn() -> list[dict[str, Any]]:
            return [asdict(figure) for figure in step_figures(step_lines(progress.entry))]

        return JSONResponse(await run_in_threadpool(drawn))

    async def result(self, request: Request) -> Response:
        """What came of it: its page, in a frame."""
        progress = await self._found(request)
        if not progress.entry.is_done or progress.entry.kind == "sequence":
            raise HTTPException(404, f"{progress.name} has no page yet.")
        return self._answer("result.html.jinja", card=card(progress), can_talk=progress.entry.can_be_talked_to)

    async def page(self, request: Request) -> Response:
        """The page itself, whose scripts are of no origin: it may come from elsewhere."""
        progress = await self._found(request)
        entry = progress.entry
        if entry.kind == "run":
            text = await run_in_threadpool(run_page, entry.folder)
        elif entry.kind in PAGES:
            file = entry.folder / PAGES[entry.kind]
            if not file.resolve().is_relative_to(self.root.resolve()):
                raise HTTPException(404, f"{entry.name} has no page in its folder.")
            text = _text_of(file)
        else:
            raise HTTPException(404, f"{entry.name} has no page.")
        return HTMLResponse(text, headers={"Content-Security-Policy": SHOWN_POLICY})

    # ---- what is started and stopped ----

    async def new(self, request: Request) -> Response:
        """The form of a new run; `like` fills it in from another."""
        like = request.query_params.get("like")
        filled: Mapping[str, str] = {}
        if like is not None:
            progress = await run_in_threadpool(self.watcher.of, like)
            if progress is not None:
                filled = await run_in_threadpool(self._form_of_run, progress)
        return self._answer("new.html.jinja", **self._form_parts(filled))

    async def start(self, request: Request) -> Response:
        """Start the run that the form describes, or show it as YAML."""
        given = await _form(request)
        return await run_in_threadpool(self._start, given)

    def _start(self, given: Mapping[str, str]) -> Response:
        try:
            values = forms.checked_settings(given)
            name = forms.name_for(self.root, given, values, self._is_taken)
        except forms.FormError as problem:
            return self._answer("new.html.jinja", 422, **self._form_parts(given, problem.sentence, problem.field))
        text = forms.settings_as_yaml(values)
        if given.get("do") == "show":
            command = forms.command_shown(SETTINGS_FILE, str(self.root / name))
            return self._answer("new.html.jinja", **self._form_parts(given, shown=text, command=command))
        folder = str(self.root / name)
        try:
            self.processes.start(
                name, "run", ["train", str(self.processes.settings_file(name)), "--out", folder], settings=text
            )
        except InputError as problem:
            return self._answer("new.html.jinja", 422, **self._form_parts(given, str(problem), forms.NAME))
        return _see(f"/run/{quote(name)}")

    async def stop(self, request: Request) -> Response:
        """Ask a run to save and stop."""
        progress = await self._found(request)
        return await self._done(progress, lambda: self.processes.stop(progress.name))

    async def resume(self, request: Request) -> Response:
        """Go on with a run that was stopped."""
        progress = await self._found(request)
        if not progress.can_resume:
            raise HTTPException(
                409, f"{progress.name} is {STATE_NAMES[progress.state]}; there is nothing to go on with."
            )
        command = ["train", "--resume", "--out", str(progress.entry.folder)]
        return await self._done(progress, lambda: self.processes.start(progress.name, "run", command))

    async def ask(self, request: Request) -> Response:
        """Ask a finished run what it broke, or what each point of its dial gains and keeps."""
        progress = await self._found(request)
        what = request.path_params["what"]
        if what not in ("forget", "dial"):
            raise HTTPException(404, "There is no such page.")
        if progress.state != "done" or not progress.entry.can_be_talked_to:
            raise HTTPException(409, f"{progress.name} is not done, so it cannot be asked yet.")
        return await run_in_threadpool(self._ask, what, progress)

    def _ask(self, what: Any, progress: Progress) -> Response:
        folder = progress.entry.folder
        recorded = (folder / BASE_RECORD).is_file()
        base = str(read_base_record(folder)["model"]) if recorded else base_of(folder / ADAPTER_FOLDER)
        name = file_name(f"{what}-{progress.name.replace('/', '-')}")
        self.processes.start(name, what, [what, base, str(folder), "--out", str(self.root / name)], settings="")
        return _see(f"/run/{quote(name)}")

    async def _done(self, progress: Progress, do: Callable[[], object]) -> Response:
        """Do something to a run and show it again, with the reason where it could not be done."""
        try:
            await run_in_threadpool(do)
        except InputError as problem:
            sentence = str(problem)
            return await run_in_threadpool(self._run_page, progress, sentence, 409)
        return _see(f"/run/{quote(progress.name)}")

    # ---- the conversation ----

    async def talk(self, request: Request) -> Response:
        """Base and tuned model side by side."""
        progress = await self._found(request)
        if not progress.entry.can_be_talked_to:
            raise HTTPException(404, f"{progress.name} holds no model yet.")
        return self._answer(
            "talk.html.jinja",
            card=card(progress),
            turns=[asdict(turn) for turn in self.conversation.turns_with(progress.name)],
            other=self.conversation.name if self.conversation.name not in (None, progress.name) else "",
            loaded=self.conversation.is_loaded and self.conversation.name == progress.name,
            most_tokens=MOST_TOKENS,
        )

    async def say(self, request: Request) -> Response:
        """What both sides answer, as it comes."""
        progress = await self._found(request)
        if not progress.entry.can_be_talked_to:
            raise HTTPException(404, f"{progress.name} holds no model yet.")
        given = await _form(request)
        words = given.get("words", "").strip()
        if not words:
            raise HTTPException(422, "Nothing was said.")
        tokens = given.get("max_tokens", "256")
        events = self.conversation.say(progress.entry, words, max_tokens=int(tokens) if tokens.isdecimal() else 0)

        async def told() -> AsyncIterator[str]:
            async for event in events:
                yield _event(event)

        return StreamingResponse(told(), media_type="text/event-stream")

    async def converse(self, request: Request) -> Response:
        """Stop an answer, begin anew, or free the memory."""
        what = request.path_params["what"]
        if what == "stop":
            self.conversation.stop()
        elif what == "anew":
            await self.conversation.anew()
        elif what == "unload":
            await self.conversation.unload()
        else:
            raise HTTPException(404, "There is no such page.")
        return Response(status_code=204)

    # ---- events and files ----

    async def events(self, request: Request) -> Response:
        """An event whenever what the list, or a run, shows has changed."""
        name = request.path_params.get("name")

        async def told() -> AsyncIterator[str]:
            yield "retry: 2000\n\n"
            mark: str | None = None
            silent = 0.0
            while not self._is_closing():
                now = await run_in_threadpool(self.watcher.mark, name)
                if now != mark:
                    yield _event({"changed": mark is not None})
                    mark, silent = now, 0.0
                elif silent > 15:  # so that a connection which nobody reads any more is noticed
                    yield ": still here\n\n"
                    silent = 0.0
                await asyncio.sleep(_LOOK_EVERY)
                silent += _LOOK_EVERY

        return StreamingResponse(told(), media_type="text/event-stream")

    async def static(self, request: Request) -> Response:
        """A stylesheet or a script."""
        kind, text = self._static.get(request.path_params["file"], ("", ""))
        if not kind:
            raise HTTPException(404, "There is no such file.")
        return Response(text, media_type=kind, headers=_DAY if request.query_params.get("v") else {})

    async def no_icon(self, request: Request) -> Response:
        """What a browser asks for by itself."""
        del request
        return Response(status_code=204)

    def _files(self) -> dict[str, tuple[str, str]]:
        report = templates(escaped=True)
        style, program = "text/css", "text/javascript"
        return {
            "sheet.css": (style, own_file(report, "sheet.css") + own_file(report, "forget.css")),
            "studio.css": (style, own_file(self._templates, "studio.css")),
            "figures.js": (program, own_file(report, "figures.js")),
            "studio.js": (program, own_file(self._templates, "studio.js")),
            "talk.js": (program, own_file(self._templates, "talk.js")),
            "plotly.js": (program, get_plotlyjs()),
        }

    # ---- parts ----

    def _is_taken(self, name: str) -> bool:
        """Whether a new run may not have a name: something lies there, or is just beginning."""
        folder, started = folder_called(self.root, name), self.processes.of(name)
        return folder is None or folder.exists() or (started is not None and self.processes.is_alive(started))

    def _form_of_run(self, progress: Progress) -> dict[str, str]:
        """The form that a run was begun with; one begun in a terminal has its settings in its folder."""
        own = self.processes.settings_file(progress.name)
        try:
            values = read_yaml(own) if own.is_file() else forms.set_by_hand(progress.entry.settings)
        except InputError:
            return {}
        return forms.form_of(values)

    def _form_parts(
        self, given: Mapping[str, str], problem: str = "", field: str = "", shown: str = "", command: str = ""
    ) -> dict[str, Any]:
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

    async def _found(self, request: Request) -> Progress:
        name = request.path_params["name"]
        progress = await run_in_threadpool(self.watcher.of, name)
        if progress is None:
            raise HTTPException(404, f"There is no run called {name!r} in {self.root}.")
        return progress

    def _answer(self, template: str, status: int = 200, **values: Any) -> Response:
        text = self._templates.get_template(template).render(plotly_version=get_plotlyjs_version(), **values)
        return HTMLResponse(text, status)

    async def _sorry(self, request: Request, problem: Exception) -> Response:
        """An error as the one sentence it is."""
        status = problem.status_code if isinstance(problem, HTTPException) else 409
        said = problem.detail if isinstance(problem, HTTPException) else str(problem)
        if "text/html" not in request.headers.get("accept", ""):
            return JSONResponse({"error": said}, status)
        return self._answer("sorry.html.jinja", status, said=said)


_NO_FORM: Mapping[str, Any] = {
    "fields": (),
    "given": {},
    "problem": "",
    "wrong": "",
    "shown": "",
    "command": "",
    "going_on": (),
}


def _event(value: Mapping[str, Any]) -> str:
    return f"data: {json.dumps(value)}\n\n"


def _see(path: str) -> Response:
    return RedirectResponse(path, 303)


async def _form(request: Request) -> dict[str, str]:
    """The fields of a form as a browser sends them; of several of one name the last."""
    return dict(parse_qsl((await request.body()).decode("utf-8", errors="replace"), keep_blank_values=True))


def _text_of(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
