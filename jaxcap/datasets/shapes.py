"""Draw the Shapes data set: scenes of one or two objects, with captions.

It needs no download, trains in minutes, and its captions can be *checked*. A scene is known down to
the pixel, so geometry decides whether a generated caption is true and complete
(`is_true_and_complete`), not similarity to reference captions.

A scene has one object (30 %) or two (70 %) of 5 shapes, 7 colours and 2 sizes on a muted
background. Two objects are unambiguously left, right, above or below each other: their centres are
at least twice as far apart along that axis as along the other, and there is a gap between them.

The test split has held-out combinations. A *kind* is a colour with a shape; there are 35. An
unordered pair of kinds is held out if the sum of their positions in `KINDS` is a multiple of 6,
which is one pair in six. (With 5, the number of shapes, whole pairs of shapes would be held out in
all colours.) No scene of `train` or `dev` shows a held-out pair. Every scene of `test` does: two
kinds that training has shown, but never together.
"""

from __future__ import annotations

import dataclasses
import io
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from jaxcap.datasets.building import Recipe

IMAGE_SIZE = 80  # width and height in pixels
_OVERSAMPLING = 4  # outlines are drawn this many times larger and averaged down

SHAPES = ("circle", "square", "triangle", "star", "cross")
COLOURS = {
    "red": (215, 25, 30),
    "orange": (255, 140, 0),
    "yellow": (255, 235, 40),
    "green": (25, 150, 45),
    "cyan": (60, 220, 235),
    "blue": (30, 60, 215),
    "purple": (145, 35, 175),
}
# Range of the radius in pixels of the circle that contains the object.
SIZES = {"small": (10.0, 11.5), "large": (15.5, 17.0)}
_LARGE_FROM = 13.5
BACKGROUNDS = ("plain", "gradient", "stripes", "noise")

Kind = tuple[str, str]  # colour, shape
KINDS: tuple[Kind, ...] = tuple((colour, shape) for colour in COLOURS for shape in SHAPES)

_GAP = 3.0  # minimum gap in pixels between two objects along the axis of their relation
_DOMINANCE = 2.0  # minimum ratio of the distances along that axis and the other one


# ---- scenes ----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Object:
    """An object to draw; `x` (to the right), `y` (downward) and `radius` are in pixels."""

    shape: str
    colour: str
    x: float
    y: float
    radius: float

    @property
    def size(self) -> str:
        """`"small"` or `"large"`."""
        return "large" if self.radius >= _LARGE_FROM else "small"

    @property
    def kind(self) -> Kind:
        """The colour and the shape."""
        return self.colour, self.shape

    @property
    def words(self) -> tuple[str, str, str]:
        """The size, the colour and the shape, as captions name them."""
        return self.size, self.colour, self.shape


@dataclasses.dataclass(frozen=True)
class Scene:
    """One or two objects on a background."""

    objects: tuple[Object, ...]
    background: str


def relation(a: Object, b: Object) -> str | None:
    """Return the position of `a` relative to `b`: `"left"`, `"right"`, `"above"` or `"below"`.

    None if it is ambiguous: the distance along one axis must be at least twice that along the
    other, and must leave a gap between the objects.
    """
    dx, dy = a.x - b.x, a.y - b.y
    along, across = max(abs(dx), abs(dy)), min(abs(dx), abs(dy))
    if along < _DOMINANCE * across or along < a.radius + b.radius + _GAP - 1e-6:
        return None
    if abs(dx) > abs(dy):
        return "left" if dx < 0 else "right"
    return "above" if dy < 0 else "below"


def _is_held_out_pair(a: Kind, b: Kind) -> bool:
    return (KINDS.index(a) + KINDS.index(b)) % 6 == 0


def sample_scene(rng: np.random.Generator, held_out: bool) -> Scene:
    """Sample a scene with (`held_out`) or without a combination that is held out from training."""
    background = str(rng.choice(BACKGROUNDS))
    kinds = _sample_kinds(rng, held_out)
    sizes = [str(rng.choice(list(SIZES))) for _ in kinds]
    radii = [float(rng.uniform(*SIZES[size])) for size in sizes]
    if len(kinds) == 1:
        x, y = rng.uniform(radii[0] + 1, IMAGE_SIZE - radii[0] - 1, size=2)
        places = [(float(x), float(y))]
    else:
        places = _sample_places(rng, radii[0], radii[1])
    return Scene(
        tuple(
            Object(shape, colour, round(x, 2), round(y, 2), round(radius, 2))
            for (colour, shape), (x, y), radius in zip(kinds, places, radii, strict=True)
        ),
        background,
    )


def _sample_kinds(rng: np.random.Generator, held_out: bool) -> list[Kind]:
    if not held_out and rng.random() < 0.3:
        return [KINDS[rng.integers(len(KINDS))]]
    while True:  # one pair in six is held out
        a, b = KINDS[rng.integers(len(KINDS))], KINDS[rng.integers(len(KINDS))]
        if a != b and _is_held_out_pair(a, b) == held_out:
            return [a, b]


def _sample_places(rng: np.random.Generator, a: float, b: float) -> list[tuple[float, float]]:
    """Sample the centres of two objects with radii `a` and `b`; the first is left of or above."""
    nearest = a + b + _GAP + 0.1  # the tenth allows for rounding
    farthest = IMAGE_SIZE - 2.0 - a - b
    along = rng.uniform(nearest, max(farthest, nearest))
    first = rng.uniform(a + 1, max(IMAGE_SIZE - b - 1 - along, a + 1))
    across = rng.uniform(-1, 1) * (along / _DOMINANCE - 0.1)
    # Both stay inside the image along the other axis, too.
    room = IMAGE_SIZE - 2.0 - a - b
    across = float(np.clip(across, -room, room))
    low = max(a + 1, b + 1 - across)
    high = min(IMAGE_SIZE - a - 1, IMAGE_SIZE - b - 1 - across)
    other = rng.uniform(low, high)
    places = [(first, other), (first + along, other + across)]
    if rng.random() < 0.5:
        places = [(y, x) for x, y in places]
    return places


def scene_to_json(scene: Scene) -> str:
    """Serialise a scene for a record."""
    return json.dumps(dataclasses.asdict(scene))


def scene_from_json(text: str) -> Scene:
    """Invert `scene_to_json`."""
    data = json.loads(text)
    return Scene(tuple(Object(**o) for o in data["objects"]), data["background"])


# ---- drawing ---------------------------------------------------------------------------------


def draw(scene: Scene, rng: np.random.Generator) -> UInt8[np.ndarray, "80 80 3"]:
    """Draw the scene.

    `rng` decides everything that captions do not mention: the colours of the background, small
    changes to the objects' colours, and rotations of up to 8 degrees.
    """
    image = Image.fromarray(_draw_background(scene.background, rng))
    side = IMAGE_SIZE * _OVERSAMPLING
    for o in scene.objects:
        outline = unit_outline(o.shape) * o.radius  # [K, 2]
        turn = np.deg2rad(rng.uniform(-8, 8))
        outline = outline @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        outline = (outline + np.array([o.x, o.y])) * _OVERSAMPLING
        mask = Image.new("L", (side, side))
        ImageDraw.Draw(mask).polygon([(float(x), float(y)) for x, y in outline], fill=255)
        shade = np.clip(np.array(COLOURS[o.colour]) + rng.integers(-12, 13, size=3), 0, 255)
        image.paste(tuple(int(c) for c in shade), mask=mask.reduce(_OVERSAMPLING))
    return np.array(image)


def unit_outline(shape: str) -> np.ndarray:
    """Return the corners [K, 2] of a shape inside the unit circle, with `y` downward."""
    if shape == "circle":
        return _on_circle(np.arange(48) * 7.5)
    if shape == "square":
        return _on_circle(np.array([45.0, 135.0, 225.0, 315.0]))
    if shape == "triangle":
        return _on_circle(np.array([-90.0, 30.0, 150.0]))
    if shape == "star":
        radii = np.where(np.arange(10) % 2 == 0, 1.0, 0.42)
        return _on_circle(-90.0 + 36.0 * np.arange(10)) * radii[:, None]
    if shape == "cross":
        arm, end = 0.3, 0.95
        quarter = np.array([(arm, -end), (arm, -arm), (end, -arm)])
        turns = [np.linalg.matrix_power(np.array([[0, 1], [-1, 0]]), k) for k in range(4)]
        return np.concatenate([quarter @ turn for turn in turns])
    raise ValueError(f"unknown shape {shape!r}")


def _on_circle(degrees: np.ndarray) -> np.ndarray:
    angles = np.deg2rad(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=-1)


def _draw_background(kind: str, rng: np.random.Generator) -> np.ndarray:
    """Draw a muted background, uint8 [80, 80, 3], unlike the colour of any object."""
    y, x = np.mgrid[0:IMAGE_SIZE, 0:IMAGE_SIZE] / IMAGE_SIZE
    first = _muted(rng)
    if kind == "plain":
        picture = np.broadcast_to(first, (IMAGE_SIZE, IMAGE_SIZE, 3))
    elif kind == "noise":
        picture = first + rng.normal(0.0, 12.0, (IMAGE_SIZE, IMAGE_SIZE, 3))
    else:
        angle = rng.uniform(0, 2 * np.pi)
        ramp = x * np.cos(angle) + y * np.sin(angle)
        if kind == "gradient":
            second = _muted(rng)
            ramp = (ramp - ramp.min()) / (ramp.max() - ramp.min())
        elif kind == "stripes":
            second = first + rng.choice((-1, 1)) * rng.uniform(14, 26)
            ramp = 0.5 + 0.5 * np.sin(2 * np.pi * ramp * rng.uniform(4, 9))
        else:
            raise ValueError(f"unknown background {kind!r}")
        picture = first + ramp[:, :, None] * (second - first)
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def _muted(rng: np.random.Generator) -> np.ndarray:
    """Sample a nearly grey colour [3]."""
    return rng.uniform(55, 205) + rng.uniform(-14, 14, size=3)


# ---- captions --------------------------------------------------------------------------------

_PHRASES = {
    "left": ("to the left of", "left of"),
    "right": ("to the right of", "right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}
_OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}
# The position of the second object, in captions that begin with the first.
_AFTERTHOUGHTS = {
    "left": "to its left",
    "right": "to its right",
    "above": "above it",
    "below": "below it",
}
_ONE = (
    "{a}",
    "there is {a}",
    "a picture of {a}",
    "this is {a}",
    "{a} on its own",
    "the picture shows {a}",
)
_TWO = (
    "{a} {relation} {b}",
    "{a} is {relation} {b}",
    "there is {a} {relation} {b}",
    "a picture of {a} {relation} {b}",
)
_TWO_AFTERTHOUGHT = "{a} with {b} {afterthought}"


@dataclasses.dataclass(frozen=True)
class Description:
    """The content of a caption.

    Attributes:
      objects: the size, colour and shape of each object, in the order of the caption.
      relation: the position of the first relative to the second; None for one object.
    """

    objects: tuple[tuple[str, str, str], ...]
    relation: str | None


def captions(scene: Scene, rng: np.random.Generator) -> list[str]:
    """Return five different captions, each true and complete."""
    if len(scene.objects) == 1:
        a = _noun(scene.objects[0])
        chosen = rng.permutation(len(_ONE))[:5]
        return [_ONE[i].format(a=a) for i in chosen]
    texts = _pair_captions(*sorted(scene.objects, key=_salience))
    return [texts[i] for i in rng.permutation(len(texts))[:5]]


def _salience(o: Object) -> tuple[bool, float]:
    """Sort key for captions: large objects first, then those nearer the upper left corner."""
    return o.size == "small", o.x + o.y


def _pair_captions(a: Object, b: Object) -> list[str]:
    where = relation(a, b)
    assert where is not None, (a, b)
    nouns = {"a": _noun(a), "b": _noun(b)}
    texts = [
        template.format(relation=phrase, **nouns) for template in _TWO for phrase in _PHRASES[where]
    ]
    afterthought = _AFTERTHOUGHTS[_OPPOSITE[where]]
    return [*texts, _TWO_AFTERTHOUGHT.format(afterthought=afterthought, **nouns)]


def _noun(o: Object) -> str:
    return f"a {o.size} {o.colour} {o.shape}"


def _grammar() -> list[re.Pattern[str]]:
    """Compile the templates to patterns with named groups."""

    def one_of(words: Iterable[str]) -> str:
        return "|".join(words)

    def noun(name: str) -> str:
        size, colour, shape = one_of(SIZES), one_of(COLOURS), one_of(SHAPES)
        return f"a (?P<size_{name}>{size}) (?P<colour_{name}>{colour}) (?P<shape_{name}>{shape})"

    phrases = one_of(phrase for choices in _PHRASES.values() for phrase in choices)
    slots = {
        "a": noun("a"),
        "b": noun("b"),
        "relation": f"(?P<relation>{phrases})",
        "afterthought": f"(?P<afterthought>{one_of(tuple(_AFTERTHOUGHTS.values()))})",
    }
    templates = (*_ONE, *_TWO, _TWO_AFTERTHOUGHT)
    return [re.compile(template.format(**slots)) for template in templates]


_PATTERNS = _grammar()
_RELATION_OF = {phrase: where for where, choices in _PHRASES.items() for phrase in choices}
_RELATION_OF |= {phrase: _OPPOSITE[where] for where, phrase in _AFTERTHOUGHTS.items()}


def parse(caption: str) -> Description | None:
    """Parse a caption; return None if the grammar does not produce it.

    Case, spacing and a final full stop are ignored.
    """
    text = " ".join(caption.lower().removesuffix(".").split())
    for pattern in _PATTERNS:
        if match := pattern.fullmatch(text):
            said = match.groupdict()
            objects = tuple(
                (said[f"size_{o}"], said[f"colour_{o}"], said[f"shape_{o}"])
                for o in "ab"
                if f"size_{o}" in said
            )
            phrase = said.get("relation") or said.get("afterthought")
            return Description(objects, _RELATION_OF[phrase] if phrase else None)
    return None


def is_true_and_complete(caption: str, scene: Scene) -> bool:
    """Check that the caption describes every object of the scene correctly, and no other.

    Size and relation follow from the geometry of the scene (`Object.size`, `relation`).
    """
    said = parse(caption)
    if said is None or len(said.objects) != len(scene.objects):
        return False
    if len(scene.objects) == 1:
        return said.objects[0] == scene.objects[0].words
    return any(
        said.objects == (a.words, b.words) and said.relation == relation(a, b)
        for a, b in (scene.objects, scene.objects[::-1])
    )


# ---- the data set ----------------------------------------------------------------------------


NUM_SCENES = {"train": 10_000, "dev": 300, "test": 500}

_STREAMS = ("train", "dev", "test")
"""The index of a split in this tuple is part of the seed of its scenes."""


def recipe(num_scenes: Mapping[str, int] | None = None) -> Recipe:
    """Return the recipe: `train` and `dev` with seen combinations, `test` with unseen ones.

    Records hold `image` (PNG, 80×80), `captions` (five), `image_id` ("test-00012") and `scene`,
    the scene as JSON, against which captions can be checked.

    Args:
      num_scenes: the number of scenes in each split; by default `NUM_SCENES`.
    """
    num_scenes = dict(NUM_SCENES if num_scenes is None else num_scenes)
    made_from = {"format": "shapes", "scenes": num_scenes}
    return Recipe(
        name="shapes",
        splits={split: range(count) for split, count in num_scenes.items()},
        make=make_example,
        fingerprint=json.dumps(made_from),
        description="Drawn scenes of one or two objects, with captions that can be checked.",
        # Mirroring would make "left of" false.
        metadata={"flippable": False, "made_from": made_from},
        texts=("scene",),
    )


def make_example(split: str, index: int) -> dict[str, Any]:
    """Make the record of scene `index` of a split; it depends only on these two."""
    rng = np.random.default_rng([_STREAMS.index(split), index])
    scene = sample_scene(rng, held_out=split == "test")
    file = io.BytesIO()
    Image.fromarray(draw(scene, rng)).save(file, format="PNG", compress_level=4)
    return {
        "image": file.getvalue(),
        "captions": captions(scene, rng),
        "image_id": f"{split}-{index:05d}",
        "scene": scene_to_json(scene),
    }
