"""Read and set the caption in an XMP sidecar, and leave every other byte of it alone.

Photo managers keep a photograph's caption as `dc:description`, a language alternative (XMP
Specification, part 1, ISO 16684-1): an `rdf:Alt` with an `rdf:li` for each language, of which
"x-default" is the caption.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from html import escape  # xml.sax would import urllib
from xml.parsers import expat

_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_DC = "http://purl.org/dc/elements/1.1/"
_RDF_ROOT = (f"{_RDF} RDF",)
_DESCRIPTION = (*_RDF_ROOT, f"{_RDF} Description")
_CAPTION = f"{_DC} description"
_LANGUAGE = "http://www.w3.org/XML/1998/namespace lang"

EMPTY = f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="{_RDF}">
  <rdf:Description rdf:about=""/>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>
""".encode()
"""A sidecar without a caption."""

_TAG = re.compile(rb"""<([^\s/>]+)(?:[^>"']|"[^"]*"|'[^']*')*>""")


@dataclass(frozen=True)
class _Element:
    """The byte ranges of an element: its content and its start tag."""

    begin: int
    end: int
    content_end: int
    text: str = ""


class _Finder:
    """Finds the first `rdf:Description`, and the photograph's `dc:description` and its items.

    That of another resource, such as an ingredient, lies deeper.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._open: list[tuple[str, int, bool]] = []
        self._text: list[str] = []
        self._in_description = False
        self.described: _Element | None = None
        self.description: _Element | None = None
        self.items: list[tuple[bool, _Element]] = []
        self._parser = expat.ParserCreate("utf-8", namespace_separator=" ")
        self._parser.buffer_text = True  # else each line is a call
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._characters
        self._parser.StartDoctypeDeclHandler = self._refuse
        self._parser.XmlDeclHandler = self._declared
        if "\0" in data.decode("utf-8"):  # expat would read it as UTF-16, whatever it was told
            raise ValueError("it is not in UTF-8")
        self._parser.Parse(data, True)

    def _refuse(self, *declaration: object) -> None:
        raise ValueError("it declares a document type")

    def _declared(self, version: str, encoding: str | None, standalone: int) -> None:
        if encoding is not None and encoding.lower() != "utf-8":
            raise ValueError(f"it is in {encoding}, not in UTF-8")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._text = []
        if self._is_within(_DESCRIPTION):
            self._in_description |= name == _CAPTION
        elif self._is_within(_RDF_ROOT) and name == _DESCRIPTION[-1] and _CAPTION in attributes:
            raise ValueError("its dc:description is an attribute; expected an element")
        is_default = attributes.get(_LANGUAGE, "x-default").lower() == "x-default"
        self._open.append((name, self._parser.CurrentByteIndex, is_default))

    def _characters(self, text: str) -> None:
        self._text.append(text)

    def _end(self, name: str) -> None:
        _, begin, is_default = self._open.pop()
        tag = _TAG.match(self._data, begin)
        if tag is None:
            raise ValueError(f"no start tag at byte {begin}")
        end = max(tag.end(), self._parser.CurrentByteIndex)
        element = _Element(begin, tag.end(), end, "".join(self._text))
        if self._is_within(_RDF_ROOT) and name == _DESCRIPTION[-1]:
            self.described = self.described or element
        elif self._is_within(_DESCRIPTION) and name == _CAPTION:
            self._in_description = False
            self.description = self.description or element
        elif name == f"{_RDF} li" and self._in_description:
            self.items.append((is_default, element))

    def _is_within(self, parents: tuple[str, ...]) -> bool:
        """Return whether the open elements are these, perhaps in an `x:xmpmeta`."""
        names = tuple(name for name, *_ in self._open[-3:])
        return names[-len(parents) :] == parents and len(self._open) <= len(parents) + 1

    @property
    def caption(self) -> _Element | None:
        """The caption: the item "x-default", or else the first."""
        return next((e for is_default, e in self.items if is_default), None) or next(
            (e for _, e in self.items), None
        )


def _find(data: bytes) -> _Finder:
    try:
        found = _Finder(data)
    except expat.ExpatError as error:
        raise ValueError(str(error)) from error
    if found.described is None:
        raise ValueError("it holds no rdf:Description")
    return found


def read_caption(data: bytes) -> str:
    """Return the caption in an XMP sidecar, or "".

    Raises:
      ValueError: this is not XMP in UTF-8.
    """
    found = _find(data)
    element = found.caption or found.description
    return "" if element is None else element.text.strip()


def with_caption(data: bytes, caption: str) -> bytes:
    """Return an XMP sidecar with another caption.

    Raises:
      ValueError: this is not XMP in UTF-8.
    """
    found = _find(data)
    text = escape(caption, quote=False)
    item = f'<rdf:li xml:lang="x-default">{text}</rdf:li>'
    alternatives = f'<rdf:Alt xmlns:rdf="{_RDF}">{item}</rdf:Alt>'
    if found.caption is not None:
        return _filled(data, found.caption, text)
    if found.description is not None:
        return _filled(data, found.description, alternatives)
    assert found.described is not None
    added = f'<dc:description xmlns:dc="{_DC}">{alternatives}</dc:description>'
    return _filled(data, found.described, added, keep=True)


def _filled(data: bytes, element: _Element, content: str, *, keep: bool = False) -> bytes:
    """Replace the content of an element, or put something before it."""
    tag = data[element.begin : element.end]
    name = _TAG.match(tag)
    assert name is not None
    if tag.endswith(b"/>"):
        filled = tag[:-2] + b">" + content.encode() + b"</" + name[1] + b">"
        return data[: element.begin] + filled + data[element.end :]
    rest = data[element.end :] if keep else data[element.content_end :]
    return data[: element.end] + content.encode() + rest
