"""Where sentences for a person go."""

from rich.console import Console


class PlainConsole(Console):
    """A console that leaves sentences as they are: one line each, however long."""

    def note(self, text: str) -> None:
        """Print a remark, without wrapping it and without colours."""
        self.print(text, highlight=False, markup=False, soft_wrap=True)

    def on_broken_pipe(self) -> None:
        """Let a reader that went away be known: rich would end the process without saving."""
        raise BrokenPipeError
