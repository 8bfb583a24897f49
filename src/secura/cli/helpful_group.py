"""A group of commands that explains itself: whole on its own, and with each command's whole first sentence."""

import sys
from typing import Any

from typer.core import TyperGroup

from secura.cli.exit_codes import USAGE


class HelpfulGroup(TyperGroup):
    """What `secura`, `secura sequence` and `secura compare` are."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Without a word after it, print the help where errors go, as typer does, and end as wrong usage does."""
        if not args and self.no_args_is_help:
            print(ctx.get_help(), file=sys.stderr)
            ctx.exit(USAGE)
        return super().parse_args(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """List the commands, each sentence over as many lines as it takes; typer cuts it after one."""
        del ctx
        rows = [(name, (command.help or "").partition("\n\n")[0]) for name, command in self.commands.items()]
        with formatter.section("Commands"):
            formatter.write_dl(rows)
