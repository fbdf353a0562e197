"""Where sentences for a person go."""

from rich.console import Console

from tinygrad_char.models.escape import escaped


class PlainConsole(Console):
    """A console that leaves sentences as they are: one line each, however long."""

    def note(self, text: str) -> None:
        """Print a remark, without wrapping it and without colours."""
        self.print(self.shown(text), highlight=False, markup=False, emoji=False, soft_wrap=True)

    def shown(self, text: str) -> str:
        """Return a text that is not ours as it may be printed here."""
        return escaped(text) if self.is_terminal else text

    def on_broken_pipe(self) -> None:
        """Let a reader that went away be known: rich would end the process without saving."""
        raise BrokenPipeError
