"""The pages of a conversation: what is said, what is answered, and how it ends."""

from collections.abc import AsyncIterator
from dataclasses import asdict

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from secura.studio.answers import event, form_fields
from secura.studio.cards import card
from secura.studio.conversation import MOST_TOKENS
from secura.studio.studio import Studio


class TalkPages:
    """Base and tuned model side by side."""

    def __init__(self, studio: Studio) -> None:
        self._studio = studio

    def routes(self) -> list[Route]:
        """Where they are."""
        return [
            Route("/talk/{name:path}", self._talk, methods=["GET"]),
            Route("/say/{name:path}", self._say, methods=["POST"]),
            Route("/conversation/{what}", self._converse, methods=["POST"]),
        ]

    async def _talk(self, request: Request) -> Response:
        """Base and tuned model side by side."""
        progress = await self._studio.found(request)
        if not progress.entry.can_be_talked_to:
            raise HTTPException(404, f"{progress.name} holds no model yet.")
        return self._studio.answer(
            "talk.html.jinja",
            card=card(progress),
            turns=[asdict(turn) for turn in self._studio.conversation.turns_with(progress.name)],
            other=self._studio.conversation.name if self._studio.conversation.name not in (None, progress.name) else "",
            loaded=self._studio.conversation.is_loaded and self._studio.conversation.name == progress.name,
            most_tokens=MOST_TOKENS,
        )

    async def _say(self, request: Request) -> Response:
        """What both sides answer, as it comes."""
        progress = await self._studio.found(request)
        if not progress.entry.can_be_talked_to:
            raise HTTPException(404, f"{progress.name} holds no model yet.")
        given = await form_fields(request)
        words = given.get("words", "").strip()
        if not words:
            raise HTTPException(422, "Nothing was said.")
        tokens = given.get("max_tokens", "256")
        events = self._studio.conversation.say(
            progress.entry, words, max_tokens=int(tokens) if tokens.isdecimal() else 0
        )

        async def told() -> AsyncIterator[str]:
            async for each in events:
                yield event(each)

        return StreamingResponse(told(), media_type="text/event-stream")

    async def _converse(self, request: Request) -> Response:
        """Stop an answer, begin anew, or free the memory."""
        what = request.path_params["what"]
        if what == "stop":
            self._studio.conversation.stop()
        elif what == "anew":
            await self._studio.conversation.anew()
        elif what == "unload":
            await self._studio.conversation.unload()
        else:
            raise HTTPException(404, "There is no such page.")
        return Response(status_code=204)
