"""The one conversation of a studio: base and tuned model of a run, loaded when the first word is said.

One pair is in memory at a time. All of torch's work is done by one thread, so that pages are answered meanwhile.
"""

import asyncio
import gc
import queue
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal

import torch

from secura.errors import ConfigError, SecuraError
from secura.experiments.talk import Pair, Side, Talk, opened_pair
from secura.studio.entries import Entry
from secura.training.memory import out_of_memory_sentence

Event = dict[str, Any]
"""What a page is told: `loading`, `notes`, `sides`, `text` of a `side`, `ended`, or `error`."""
MOST_TOKENS = 4_096
"""Of an answer."""
_SECONDS_TO_END = 2.0


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What was said, and by whom."""

    by: Literal["you"] | Side
    text: str


class Conversation:
    """Talks with one model at a time; what was said stays until another one is talked to."""

    def __init__(self) -> None:
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._worker: threading.Thread | None = None
        self._busy = threading.Lock()
        self._stopped = threading.Event()
        self._loaded = ExitStack()
        self._talk: Talk | None = None
        self._pair: Pair | None = None
        self.name: str | None = None
        """Of the run that is talked to; None where none is."""
        self.turns: list[Turn] = []
        """What was said, in order."""

    @property
    def is_loaded(self) -> bool:
        """Whether a model is in memory."""
        return self._pair is not None

    @property
    def is_busy(self) -> bool:
        """Whether an answer is being written, or a model loaded."""
        return self._busy.locked()

    def turns_with(self, name: str) -> list[Turn]:
        """What was said to the model of a run; nothing where another one is talked to."""
        return list(self.turns) if name == self.name else []

    def stop(self) -> None:
        """End the answer that is being written after its next token."""
        self._stopped.set()

    def end(self) -> None:
        """Let go of the model, and of the thread."""
        self.stop()
        if self._worker is not None:
            self._work.put(None)
            self._worker.join(_SECONDS_TO_END)

    def say(self, entry: Entry, words: str, *, max_tokens: int) -> AsyncIterator[Event]:
        """Have both sides answer; loads their model where another one is loaded, or none.

        Args:
            entry: the run that is talked to.
            words: the user's.
            max_tokens: of an answer, at most.

        Raises:
            ConfigError: if an answer is being written already, or too many tokens are wanted.
        """
        if not 1 <= max_tokens <= MOST_TOKENS:
            raise ConfigError(f"an answer of {max_tokens} tokens cannot be asked for; take 1 to {MOST_TOKENS}.")
        events, stopped = self._begin(lambda hear, stopped: self._answer(entry, words, max_tokens, hear, stopped))

        async def told() -> AsyncIterator[Event]:
            try:
                while (event := await events.get()) is not None:
                    yield event
            finally:  # also where the page has gone
                stopped.set()

        return told()

    async def anew(self) -> None:
        """Forget what was said; the model stays loaded."""
        events, _ = self._begin(lambda hear, stopped: self._forget())
        while await events.get() is not None:
            pass

    async def unload(self) -> None:
        """Forget what was said, and free the memory of the model."""
        events, _ = self._begin(lambda hear, stopped: self._close())
        while await events.get() is not None:
            pass

    def _begin(
        self, work: Callable[[Callable[[Event], None], threading.Event], None]
    ) -> tuple["asyncio.Queue[Event | None]", threading.Event]:
        """Have the worker do something; what it tells comes in the queue, and None at the end."""
        if not self._busy.acquire(blocking=False):
            raise ConfigError("an answer is being written, or a model loaded; stop it, or wait until it has ended.")
        stopped = self._stopped = threading.Event()
        loop, events = asyncio.get_running_loop(), asyncio.Queue[Event | None]()

        def hear(event: Event | None) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(events.put_nowait, event)

        def do() -> None:
            try:
                work(hear, stopped)
            except Exception as problem:
                hear({"error": _sentence(problem)})
            finally:
                self._busy.release()
                hear(None)

        if self._worker is None:
            # A daemon: a model that is being loaded must not keep a studio that was closed.
            self._worker = threading.Thread(target=self._run, name="conversation", daemon=True)
            self._worker.start()
        self._work.put(do)
        return events, stopped

    def _run(self) -> None:
        while (do := self._work.get()) is not None:
            do()
        self._close()

    def _answer(
        self, entry: Entry, words: str, max_tokens: int, hear: Callable[[Event], None], stopped: threading.Event
    ) -> None:
        if self._pair is None or self.name != entry.name:
            self._close()
            hear({"loading": entry.name})
            self._pair = self._loaded.enter_context(opened_pair(str(entry.folder), None))
            self._talk, self.name = Talk(self._pair, max_tokens=max_tokens), entry.name
            hear({"notes": list(self._pair.notes)})
        assert self._talk is not None
        self._talk.max_tokens = max_tokens
        hear({"sides": list(self._pair.sides)})
        self.turns.append(Turn(by="you", text=words))
        for side in self._pair.sides:
            if not stopped.is_set():
                self._one_side(self._talk, side, words, hear, stopped)
        hear({"ended": "stopped" if stopped.is_set() else "whole"})

    def _one_side(
        self, talk: Talk, side: Side, words: str, hear: Callable[[Event], None], stopped: threading.Event
    ) -> None:
        def on_text(text: str) -> None:
            hear({"side": side, "text": text})

        try:
            answer = talk.say(side, words, on_text, stopped.is_set)
        except SecuraError as problem:
            answer = _sentence(problem)
            on_text(answer)
        self.turns.append(Turn(by=side, text=answer))

    def _forget(self) -> None:
        self.turns.clear()
        if self._talk is not None:
            self._talk.forget()

    def _close(self) -> None:
        self._forget()
        self._talk = self._pair = self.name = None
        self._loaded.close()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _sentence(problem: Exception) -> str:
    if isinstance(problem, SecuraError):
        return str(problem)
    return out_of_memory_sentence(problem) or f"{type(problem).__name__}: {problem}"
