"""Scores a trained captioner: `python evaluate.py RUN [--split dev]`."""

from jaxcap.cli import evaluate

if __name__ == "__main__":
    evaluate()
