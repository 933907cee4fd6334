"""What `jaxcap` and `python -m jaxcap` start."""

from __future__ import annotations

from jaxcap.devices.huge_pages import restart_with_huge_pages


def main() -> None:
    """Entry point of the `jaxcap` command."""
    restart_with_huge_pages()
    # Only now: all that was imported before would be imported twice.
    from jaxcap.cli import main as run

    run()


if __name__ == "__main__":
    main()
