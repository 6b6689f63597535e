"""The program keyfold-server, whose commands are in `admin`."""

from __future__ import annotations


def main() -> None:
    """Runs the command line."""
    try:
        # Imported here, so that this script can say what is missing.
        from keyfold_server import admin

        admin.app()
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("keyfold"):
            raise
        # Without the extra `server` this script is installed, too, but not what it needs.
        raise SystemExit(
            f"keyfold-server: {error.name} is missing; install keyfold[server]"
        ) from None


if __name__ == "__main__":
    main()
