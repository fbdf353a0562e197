"""The command `tinygrad-char`, also `python -m models`."""

import sys


def main() -> None:
    """Run the command line, whose exit code is 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    try:
        from models.cli import run

        code = run(sys.argv[1:])
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted\n")
        code = 130
    sys.exit(code)


if __name__ == "__main__":
    main()
