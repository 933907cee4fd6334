"""The entry point of `jaxcap` and `python -m jaxcap`."""

from __future__ import annotations

from jaxcap.devices.huge_pages import restart_with_huge_pages


def main(*command: str) -> None:
    """Entry point of the `jaxcap` command.

    Args:
      command: arguments before those of the command line.
    """
    restart_with_huge_pages()
    # Imported after the restart, which would repeat every import.
    from jaxcap.cli import main as run

    run(*command)


if __name__ == "__main__":
    main()
