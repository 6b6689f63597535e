"""The program keyfold-console."""

from __future__ import annotations


def main() -> None:
    """Runs the command line."""
    try:
        # Imported here, so that this script can say what is missing.
        from keyfold_console.command import app

        app()
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("keyfold"):
            raise
        # Without the extra `console` this script is installed, too, but not what it needs.
        raise SystemExit(
            f"keyfold-console: {error.name} is missing; install keyfold[console]"
        ) from None


if __name__ == "__main__":
    main()
