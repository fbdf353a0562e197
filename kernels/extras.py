"""The words for what brings a package that is missing."""


def how_to_install(extra: str) -> str:
    """Return the command that installs one of setup.py's extras: on no index, so from the files."""
    return f'pip install -e ".[{extra}]" in the checkout'
