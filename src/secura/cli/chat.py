"""`secura chat` and `secura generate`: talking to a model, and to its base beside it."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from secura.errors import ConfigError, InputError
from secura.visible import visible, visible_json

if TYPE_CHECKING:
    from rich.console import Console

    from secura.experiments.talk import Side, Talk

Option = typer.Option
Source = Annotated[
    str, typer.Argument(metavar="RUN|ADAPTER|MODEL", help="A run, an adapter of any PEFT method, or a model.")
]
Base = Annotated[str | None, Option(help="The base of an adapter; default: the one it names.")]
Debug = Annotated[bool, Option("--debug", help="Show the traceback of an error.")]

_HELP = "/base, /tuned or /both chooses who answers; /new starts a new conversation; /quit ends."


def chat(
    source: Source,
    base: Base = None,
    max_tokens: Annotated[int, Option(help="Tokens of an answer, at most.")] = 256,
    debug: Debug = False,
) -> int:
    """Talk to a model, or to an adapter and its base side by side.

    Exit codes: 0 done, 1 failed, 3 wrong usage.
    """
    del debug  # read by `secura.cli.app.run`
    from secura.experiments.talk import Talk, opened_pair
    from secura.plain_console import PlainConsole

    console = PlainConsole()
    with opened_pair(source, base) as pair:
        for note in pair.notes:
            console.print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)
        console.print(_HELP, highlight=False, markup=False)
        _converse(console, Talk(pair, max_tokens=max_tokens), pair.sides)
    return 0


def _converse(console: "Console", talk: "Talk", sides: tuple["Side", ...]) -> None:
    chosen = sides
    while True:
        try:
            words = console.input("> ").strip()
        except EOFError:
            return
        if words in ("/quit", "/exit"):
            return
        if words == "/new":
            talk.forget()
        elif words in ("/base", "/tuned", "/both"):
            wanted: tuple[Side, ...] = (
                sides if words == "/both" else tuple(side for side in sides if f"/{side}" == words)
            )
            if wanted:
                chosen = wanted
            else:
                console.print("this is a whole model, and its base is not known", highlight=False)
        elif words.startswith("/"):
            console.print(_HELP, highlight=False, markup=False)
        elif words:
            for side in chosen:
                _answer(console, talk, side, words)


def _answer(console: "Console", talk: "Talk", side: "Side", words: str) -> None:
    def hear(text: str) -> None:
        console.out(text, end="", highlight=False)
        sys.stdout.flush()

    console.out(f"{side}: ", end="", highlight=False)
    try:
        talk.say(side, words, hear)
    except InputError as problem:
        console.out(str(problem), end="", highlight=False)
    except KeyboardInterrupt:  # ends this answer, not the conversation
        console.out(" (stopped)", end="", highlight=False)
    console.out("")


def generate(
    source: Source,
    prompts: Annotated[Path, typer.Argument(help="One prompt per line, or JSONL rows with prompt or messages.")],
    base: Base = None,
    both: Annotated[bool, Option("--both", help="Let the base answer too.")] = False,
    max_tokens: Annotated[int, Option(help="Tokens of an answer, at most.")] = 256,
    out: Annotated[Path | None, Option(help="JSONL file for the answers; default: the screen.")] = None,
    debug: Debug = False,
) -> int:
    """Answer a file of prompts.

    Exit codes: 0 done, 1 failed, 3 wrong usage.
    """
    del debug  # read by `secura.cli.app.run`
    import json

    from secura.experiments.talk import answer_all, opened_pair, read_prompts
    from secura.whole_files import write_text

    if max_tokens < 1:
        raise ConfigError(f"--max-tokens is {max_tokens}; give a number, at least 1.")
    if out is not None and out.is_dir():
        raise ConfigError(f"--out {out} is a folder; name a file, such as {out / 'answers.jsonl'}.")
    asked = read_prompts(prompts)
    with opened_pair(source, base) as pair:
        if both and "base" not in pair.sides:
            raise ConfigError(f"--both needs an adapter, but {source} is a whole model; leave it out.")
        rows = answer_all(pair, asked, max_tokens=max_tokens, sides=pair.sides if both else ("tuned",))
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if out is None:
        print(visible_json(text), end="")
    else:
        write_text(out, text)
        print(visible(f"{len(rows)} answers are in {out}"))
    return 0
