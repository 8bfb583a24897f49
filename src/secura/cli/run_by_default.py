"""Commands of which `run` need not be typed: `secura sequence SEQ.yaml` is `secura sequence run SEQ.yaml`."""

from typing import Any

from secura.cli.helpful_group import HelpfulGroup


class RunByDefault(HelpfulGroup):
    """A group that takes a first word that is no command of it for the argument of `run`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Put `run` before it."""
        if args and args[0] not in self.commands:
            args = ["run", *args]
        return super().resolve_command(ctx, args)
