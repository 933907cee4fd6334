"""The files of pages, and the policies that allow pages nothing but these."""

from __future__ import annotations

import base64
import hashlib
import re
from html import escape
from importlib import resources
from pathlib import Path

from jaxcap.files import open_file
from jaxcap.messages.errors import InputError


def asset(name: str, package: str = "jaxcap.report") -> str:
    """Return a file of a package, by default a style, a script, or a template of this one."""
    return resources.files(package).joinpath(name).read_text(encoding="utf-8")


def check_page(path: Path, option: str, way_out: str = "") -> None:
    """Refuse to replace a file that is no page of jaxcap.

    Args:
      option: the option that names the file.
      way_out: what to do other than give another name.

    Raises:
      InputError: the file is there, and jaxcap did not write it.
    """
    if not path.exists():
        return
    with open_file(path) as file:
        begin = file.read(1 << 16)
    if begin and b'<p class="kicker">jaxcap ' not in begin:
        raise InputError(
            f"{option} {path}: this file is no page that jaxcap wrote, so it is not replaced. "
            f"Give another name{way_out}."
        )


def prose(text: str) -> str:
    """Escape text for HTML; lines break after the slashes of paths, not within `--beam-size`."""
    kept = re.sub(r"--[\w.-]+", r'<span class="option">\g<0></span>', escape(text))
    return re.sub(r"(?<=\w)/(?=\w)", "/<wbr>", kept)


def policy(*, style: str, script: str = "", **sources: str) -> str:
    """Return a content security policy that allows only this style and this script.

    Args:
      sources: other permitted sources, by directive: `img_src="data:"`.
    """

    def sha256(text: str) -> str:
        digest = hashlib.sha256(text.encode("utf-8")).digest()
        return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"

    allowed = {"default_src": "'none'", **sources, "style_src": sha256(style)}
    if script:
        allowed["script_src"] = sha256(script)
    allowed |= {"base_uri": "'none'", "form_action": "'none'"}
    return "; ".join(f"{name.replace('_', '-')} {value}" for name, value in allowed.items())
