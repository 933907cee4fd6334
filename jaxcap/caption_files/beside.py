"""Write captions into files beside the images, where other programs look for them.

Each file is replaced as a whole, so an interruption leaves the old one or the new one. Everything
else in it is kept: every other character of a JSON object or an XMP sidecar.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from jaxcap.caption_files import xmp
from jaxcap.caption_files.column_names import Names
from jaxcap.caption_files.output_formats import Key
from jaxcap.caption_files.reading import caption_texts
from jaxcap.caption_files.sidecars import sidecar_captions
from jaxcap.caption_files.text_files import decode_text, read_json, shown
from jaxcap.captioning.results import Captioned
from jaxcap.files import read_bytes, replacing
from jaxcap.messages.errors import InputError, one_line

Kind = Literal["txt", "caption", "json", "xmp"]
Existing = Literal["skip", "replace", "append"]

_MAX_BYTES = 2**26
_T = TypeVar("_T")


@dataclass(frozen=True)
class BesideWriter:
    """Writes the caption of an image into a file beside it.

    Attributes:
      kind: the suffix of the files. `json` sets the key `caption`, `xmp` the description that
        photo managers show.
      prefix: text before each caption.
      suffix: text after each caption.
      existing: what to do with existing captions: `skip` leaves the image out, `replace` replaces
        them, `append` adds a line (in JSON: makes a list). A caption is not added twice.
    """

    kind: Kind
    prefix: str = ""
    suffix: str = ""
    existing: Existing = "skip"

    clash = "its captions belong into {key}, and so do those of {other}"

    def key(self, name: str) -> str:
        """Return the file of the captions of an image.

        An XMP sidecar is `a.jpg.xmp`, or `a.xmp` if that is there already.
        """
        path = Path(name)
        if self.kind != "xmp":
            return str(path.with_suffix(f".{self.kind}"))
        full, short = path.with_name(f"{path.name}.xmp"), path.with_suffix(".xmp")
        return str(short if short.exists() and not full.exists() else full)

    def has(self, key: Key) -> bool:
        """Return whether to leave out the image that this file belongs to.

        Raises:
          InputError: the file exists but cannot be read, so its other content could not be kept;
            or it is a link to another folder.
        """
        path = Path(str(key))
        _target(str(key))
        return bool(self._captions(path, _read(path))) and self.existing == "skip"

    def add(self, result: Captioned) -> None:
        """Write the best caption of an image; do nothing for an image without one.

        Raises:
          InputError: the file cannot be written. It is then unchanged.
        """
        if not result.captions:
            return
        path = _target(self.key(result.name))
        caption = one_line(f"{self.prefix}{result.captions[0].text}{self.suffix}")
        data = _read(path)
        before = self._captions(path, data)
        if self.existing == "append" and caption in before:
            return
        captions = [*before, caption] if self.existing == "append" else [caption]
        try:
            with replacing(path) as beside:
                beside.write_bytes(self._content(path, data, captions))
                if path.exists():
                    shutil.copymode(path, beside)
        except OSError as error:
            raise InputError(
                f"{path}: cannot write: {error.strerror}. Remove the cause, then repeat the "
                "command to continue."
            ) from error

    def _captions(self, path: Path, data: bytes) -> list[str]:
        if not data.strip():
            return []
        if self.kind == "xmp":
            found = _of_xmp(path, xmp.read_caption, data)
            return found.split("\n") if found else []
        if self.kind == "json":
            document, key = _json_object(path, data)
            value = [] if document.get(key) is None else document[key]
            texts = caption_texts(value)
            # Objects may hold more than their texts, which would be lost.
            if texts is None or (self.existing != "skip" and texts not in (value, [value])):
                raise InputError(f"{path}: {key} is {shown(value)}; expected text")
            return texts
        return [text for text, _ in sidecar_captions(path.with_suffix(".txt"), data)]

    def _content(self, path: Path, data: bytes, captions: list[str]) -> bytes:
        if self.kind == "xmp":
            return _of_xmp(path, lambda old: xmp.with_caption(old, "\n".join(captions)), data)
        if self.kind == "json":
            _, key = _json_object(path, data)
            value = json.dumps(captions[0] if len(captions) == 1 else captions, ensure_ascii=False)
            text = _with_value(decode_text(data, path), key, value)
        else:
            kept = decode_text(data, path) if self.existing == "append" else ""
            line_end = "" if kept.endswith("\n") or not kept else "\n"
            text = f"{kept}{line_end}{captions[-1]}\n"
        return text.encode(errors="backslashreplace")


def _target(key: str) -> Path:
    """Return the file to replace; a link to it stays a link.

    Raises:
      InputError: the link leads out of its folder. In a folder from a stranger, it could lead to
        any file of the user.
    """
    path = Path(os.path.realpath(key))
    if os.path.islink(key) and not path.is_relative_to(os.path.realpath(os.path.dirname(key))):
        raise InputError(
            f"{key}: a link to {path}, outside its folder, where nothing is written. Replace the "
            "link with the file."
        )
    return path


def _read(path: Path) -> bytes:
    try:
        os.lstat(path)
    except FileNotFoundError:
        return b""
    except OSError as error:  # such as a name that is too long
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error
    return read_bytes(path, at_most=_MAX_BYTES)


def _json_object(path: Path, data: bytes) -> tuple[dict[str, Any], str]:
    """Return the object in a JSON sidecar, and its key of captions, which may be missing."""
    text = decode_text(data, path)
    document = read_json(path, text) if text.strip() else {}
    if not isinstance(document, dict):
        raise InputError(f"{path}: expected an object {{…}}, found {shown(document)}")
    return document, next(iter(Names().captions_in(document)), "caption")


_NAME = re.compile(r'[\s,]*("(?:[^"\\]|\\.)*")\s*:\s*')


def _with_value(text: str, key: str, value: str) -> str:
    """Set a value in the text of a JSON object, and leave every other character alone.

    Numbers that Python cannot hold, such as 1e400, would change if they were parsed and written.
    """
    text = text if text.strip() else "{\n}\n"
    begin = end = text.index("{") + 1
    found = None
    while name := _NAME.match(text, end):
        _, end = json.JSONDecoder().raw_decode(text, name.end())
        if json.loads(name[1]) == key:  # of repeated names, the last counts
            found = name.end(), end
    if found is not None:
        return text[: found[0]] + value + text[found[1] :]
    comma = "," if end > begin else ""
    return f'{text[:end]}{comma}\n    "{key}": {value}{text[end:]}'


def _of_xmp(path: Path, use: Callable[[bytes], _T], data: bytes) -> _T:
    try:
        return use(data if data.strip() else xmp.EMPTY)
    except ValueError as error:
        raise InputError(f"{path}: not an XMP sidecar that can be kept: {error}") from error
