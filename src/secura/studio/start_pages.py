"""What is started and stopped: the form of a new run, and what is done to one that is there."""

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from secura.errors import ConfigError, InputError
from secura.experiments.export import base_of
from secura.experiments.files import ADAPTER_FOLDER, BASE_RECORD
from secura.file_names import file_name
from secura.studio import form as forms
from secura.studio.answers import form_fields, see_other
from secura.studio.entries import KINDS, entry_called, folder_called
from secura.studio.progress import STATE_NAMES, Progress
from secura.studio.started import SETTINGS_FILE
from secura.studio.studio import Studio


class StartPages:
    """What a studio does to runs."""

    def __init__(self, studio: Studio) -> None:
        self._studio = studio

    def routes(self) -> list[Route]:
        """Where they are."""
        return [
            Route("/new", self._new, methods=["GET"]),
            Route("/new", self._begin, methods=["POST"]),
            Route("/stop/{name:path}", self._stop, methods=["POST"]),
            Route("/resume/{name:path}", self._resume, methods=["POST"]),
            Route("/ask/{what}/{name:path}", self._question, methods=["POST"]),
        ]

    async def _new(self, request: Request) -> Response:
        """The form of a new run; `like` fills it in from another."""
        like = request.query_params.get("like")
        filled: Mapping[str, str] = {}
        if like is not None:
            progress = await run_in_threadpool(self._studio.watcher.of, like)
            if progress is not None:
                filled = await run_in_threadpool(self._studio.form_of_run, progress)
        return self._studio.answer("new.html.jinja", **self._studio.form_parts(filled))

    async def _begin(self, request: Request) -> Response:
        """Start the run that the form describes, or show it as YAML."""
        given = await form_fields(request)
        return await run_in_threadpool(self._start, given)

    def _start(self, given: Mapping[str, str]) -> Response:
        try:
            values = forms.checked_settings(given)
            name = forms.name_for(self._studio.root, given, values, self._is_taken)
        except forms.FormError as problem:
            return self._studio.answer(
                "new.html.jinja", 422, **self._studio.form_parts(given, problem.sentence, problem.field)
            )
        text = forms.settings_as_yaml(values)
        if given.get("do") == "show":
            command = forms.command_shown(SETTINGS_FILE, str(self._studio.root / name))
            return self._studio.answer("new.html.jinja", **self._studio.form_parts(given, shown=text, command=command))
        folder = str(self._studio.root / name)
        try:
            self._studio.processes.start(
                name, "run", ["train", str(self._studio.processes.settings_file(name)), "--out", folder], settings=text
            )
        except InputError as problem:
            return self._studio.answer(
                "new.html.jinja", 422, **self._studio.form_parts(given, str(problem), forms.NAME)
            )
        return see_other(f"/run/{quote(name)}")

    async def _stop(self, request: Request) -> Response:
        """Ask a run to save and stop."""
        progress = await self._studio.found(request)
        return await self._done(progress, lambda: self._studio.processes.stop(progress.name))

    async def _resume(self, request: Request) -> Response:
        """Go on with a run that was stopped."""
        progress = await self._studio.found(request)
        if not progress.can_resume:
            raise HTTPException(409, f"{progress.name} is {STATE_NAMES[progress.state]}; there is nothing to continue.")
        command = ["train", "--resume", "--out", str(progress.entry.folder)]
        return await self._done(progress, lambda: self._studio.processes.start(progress.name, "run", command))

    async def _question(self, request: Request) -> Response:
        """Ask a finished run what it broke, or what each point of its dial gains and keeps."""
        progress = await self._studio.found(request)
        what = request.path_params["what"]
        if what not in ("forget", "dial"):
            raise HTTPException(404, "There is no such page.")
        if progress.state != "done" or not progress.entry.can_be_talked_to:
            raise HTTPException(409, f"{progress.name} is not done, so it cannot be asked yet.")
        return await run_in_threadpool(self._ask, what, progress)

    def _ask(self, what: Any, progress: Progress) -> Response:
        folder = progress.entry.folder
        base = base_of(folder if (folder / BASE_RECORD).is_file() else folder / ADAPTER_FOLDER)
        name = file_name(f"{what}-{progress.name.replace('/', '-')}")
        there = entry_called(self._studio.root, name)
        if there is not None and there.kind != what:
            raise ConfigError(f"{name} would be written to, and holds a {KINDS[there.kind]}; rename that folder.")
        self._studio.processes.start(
            name, what, [what, base, str(folder), "--out", str(self._studio.root / name)], settings=""
        )
        return see_other(f"/run/{quote(name)}")

    async def _done(self, progress: Progress, do: Callable[[], object]) -> Response:
        """Do something to a run and show it again, with the reason where it could not be done."""
        try:
            await run_in_threadpool(do)
        except InputError as problem:
            sentence = str(problem)
            return await run_in_threadpool(self._studio.run_page, progress, sentence, 409)
        return see_other(f"/run/{quote(progress.name)}")

    def _is_taken(self, name: str) -> bool:
        """Whether a new run may not have a name: something lies there, or is just beginning."""
        folder, started = folder_called(self._studio.root, name), self._studio.processes.of(name)
        return folder is None or folder.exists() or (started is not None and self._studio.processes.is_alive(started))
