"""The program keyfold-relay, whose commands are in `commands`."""

from __future__ import annotations


def main() -> None:
    """Runs the command line."""
    try:
        # Imported here, so that this script can say what is missing.
        from keyfold_relay import commands

        commands.app()
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("keyfold"):
            raise
        # Without the extra `relay` this script is installed, too, but not what it needs.
        raise SystemExit(
            f"keyfold-relay: {error.name} is missing; install keyfold[relay]"
        ) from None


if __name__ == "__main__":
    main()
