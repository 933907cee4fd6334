"""Score a trained captioner: `python evaluate.py RUN [--split dev]`."""

from jaxcap.devices.huge_pages import restart_with_huge_pages

if __name__ == "__main__":
    restart_with_huge_pages()
    from jaxcap.cli import evaluate

    evaluate()
