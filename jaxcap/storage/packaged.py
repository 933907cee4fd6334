"""The trained captioner that comes with the package; `docs/model_card.md` says what it is."""

from __future__ import annotations

from pathlib import Path

from jaxcap.messages.errors import InputError

FOLDER = Path(__file__).parents[1] / "pretrained"
"""Holds the models, and no code."""
DEFAULT = "captioner"
"""The model that captions where none is named."""


def model_name(path: Path) -> str:
    """Return a model's path for messages, or "packaged model" if it is in the package."""
    return "packaged model" if path.parent == FOLDER else str(path)


def packaged(name: str = DEFAULT) -> Path:
    """The file of a model in the package, for `jaxcap.load`.

    Raises:
      InputError: the package was built without it.
    """
    path = FOLDER / f"{name}.safetensors"
    if not path.is_file():
        raise InputError(
            f"{path}: this jaxcap was installed without its model. Install it from a full copy of "
            "its sources, or name a captioner of your own: --model runs/NAME, or "
            'jaxcap.load("runs/NAME").'
        )
    return path
