"""Damage files as accidents and attackers do: bytes, lines, and the values of JSON."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

# Numbers and texts on which readers stumble.
_BYTES = (
    *(b"", b"\0", b"\xff", b"\xff" * 8, b"\0" * 8, b"\x7f" + b"\xff" * 7, b"\x80" + b"\0" * 7),
    *(
        b"\n",
        b"\r\n",
        b'"',
        b"'",
        b",",
        b"\t",
        b"[",
        b"]",
        b"{",
        b"}",
        b"(",
        b")",
        b"\\",
        b"<",
        b">",
    ),
    *(b"[" * 2000, b'{"a":' * 2000, b"(" * 2000, b"9" * 5000, b"NaN", b"1e999", b"-1", b"null"),
    *(b'"\\ud800"', b"\xed\xa0\x80", "\u202e\x1b[2J".encode(), b"\xef\xbb\xbf", b"\xff\xfe"),
    *(b"a" * 3000, b"/" * 300, b"../" * 20, b"%s%n{0}", b"\x80\x02." * 3),
)
_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, -(2**70), 10**400, 0.5, -0.0, 1e308),
    *(
        float("nan"),
        float("inf"),
        "",
        "a",
        "\ud800",
        "\0",
        "\u202e",
        "x" * 5000,
        "../../etc/passwd",
    ),
    *([], {}, [[]], [{}], {"a": 1}, [None] * 100, ["a", "a"], "[" * 2000, "1" * 5000, "os:system"),
)


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Return `data` with one to four changes of bytes."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(changed) + 1)
        end = min(len(changed), at + rng.choice((1, 1, 2, 4, 8, 40)))
        match rng.randrange(7):
            case 0 if at < len(changed):
                changed[at] ^= 1 << rng.randrange(8)
            case 1 if at < len(changed):
                changed[at] = rng.randrange(256)
            case 2:
                del changed[at:end]
            case 3:
                changed[at:at] = rng.choice(_BYTES)
            case 4:
                size = rng.choice((1, 2, 4, 8))
                number = rng.choice((0, 1, 2 ** (8 * size - 1), 2 ** (8 * size) - 1, at, len(data)))
                order = rng.choice(("little", "big"))
                changed[at : at + size] = (number % 2 ** (8 * size)).to_bytes(size, order)  # type: ignore[arg-type]
            case 5:
                changed[at:at] = changed[rng.randrange(len(changed) + 1) :][: rng.randrange(200)]
            case _ if rng.random() < 0.3:
                del changed[at:]
    return bytes(changed)


def mutate_json(text: bytes, rng: random.Random) -> bytes:
    """Return a JSON document with one to three of its values or names changed."""
    document = [json.loads(text)]
    for _ in range(rng.randint(1, 3)):
        places = list(_places(document))
        container, key = rng.choice(places)
        match rng.randrange(6):
            case 0:
                del container[key]
                if not document:
                    document = [None]
            case 1 if isinstance(container, dict):
                container[rng.choice(("", "a", "\ud800", key + "s", "x" * 3000))] = container.pop(
                    key
                )
            case 2:
                other, name = rng.choice(places)
                container[key] = json.loads(json.dumps(_get(other, name)))
            case 3:
                for _ in range(rng.choice((1, 90, 120, 400))):
                    container[key] = [container[key]]
            case _:
                # A copy: a later change may put a value into itself.
                container[key] = copy.deepcopy(rng.choice(_VALUES))
    return json.dumps(document[0]).encode()


def _get(container: Any, key: Any) -> Any:
    try:
        return container[key]
    except (KeyError, IndexError):  # deleted meanwhile
        return None


def _places(value: Any) -> Any:
    """Yield container and key of each value, at any depth."""
    pending = [value]
    while pending:
        container = pending.pop()
        keys = container if isinstance(container, dict) else range(len(container))
        for key in list(keys):
            yield container, key
            if isinstance(container[key], dict | list):
                pending.append(container[key])
