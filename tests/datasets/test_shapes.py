"""Shapes: images against pixel counts, captions against scenes made by hand."""

import dataclasses

import numpy as np
import pytest
import tensorflow_datasets as tfds

from jaxcap.datasets import shapes
from jaxcap.datasets.building import build
from jaxcap.datasets.shapes import Object, Scene

# 50 pixels between the centres: the small circle is left of the large square.
CIRCLE = Object("circle", "red", 12.0, 40.0, 8.0)
SQUARE = Object("square", "blue", 62.0, 45.0, 16.0)
PAIR = Scene((CIRCLE, SQUARE), "plain")


def scenes(held_out, count=400):
    return [shapes.sample_scene(np.random.default_rng([3, i]), held_out) for i in range(count)]


@pytest.mark.parametrize(
    "caption",
    [
        "a small red circle to the left of a large blue square",
        "A small red circle is left of a large blue square.",
        "there is a large blue square right of a small red circle",
        "a picture of a large blue square to the right of a small red circle",
        "a small red circle with a large blue square to its right",
        "a large blue square with a small red circle to its left",
    ],
)
def test_true_and_complete(caption):
    assert shapes.is_true_and_complete(caption, PAIR)


@pytest.mark.parametrize(
    "caption",
    [
        "a small red circle to the right of a large blue square",
        "a small red circle above a large blue square",
        "a large blue square to the left of a small red circle",
        "a small red circle with a large blue square to its left",
        "a large red circle to the left of a large blue square",
        "a small red circle to the left of a large green square",
        "a small red star to the left of a large blue square",
        "a small blue circle to the left of a large red square",
        "a small red circle",
        "there is a large blue square",
        "a small red circle to the left of a small red circle",
        "a small red circle and a large blue square",
        "a red circle to the left of a blue square",
        "a small red circle to the left of a large blue square above a small red star",
        "a small red circle to the left of of a large blue square",
        "",
    ],
)
def test_false_or_incomplete(caption):
    assert not shapes.is_true_and_complete(caption, PAIR)


def test_one_object():
    scene = Scene((SQUARE,), "noise")
    assert shapes.is_true_and_complete("this is a large blue square", scene)
    assert not shapes.is_true_and_complete("this is a small blue square", scene)
    assert not shapes.is_true_and_complete("a large blue square above a large blue square", scene)


def test_two_equal_objects_may_be_described_in_either_order():
    twin = dataclasses.replace(CIRCLE, x=60.0)
    scene = Scene((CIRCLE, twin), "plain")
    for where in ("left", "right"):
        assert shapes.is_true_and_complete(
            f"a small red circle {where} of a small red circle", scene
        )
    assert not shapes.is_true_and_complete("a small red circle above a small red circle", scene)


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        (60.0, 40.0, "left"),
        (60.0, 60.0, "left"),  # 48 against 20
        (60.0, 68.0, None),  # 48 against 28: neither outweighs the other twice
        (30.0, 78.0, "above"),  # y points downward
        (28.0, 40.0, None),  # the two would touch
    ],
)
def test_ambiguous_relations_are_none(x, y, expected):
    other = Object("star", "green", x, y, 8.0)
    opposite = {"left": "right", "above": "below", None: None}
    assert shapes.relation(CIRCLE, other) == expected
    assert shapes.relation(other, CIRCLE) == opposite[expected]


def test_parse():
    said = shapes.parse("a large cyan star under a small purple cross")
    assert said == shapes.Description(
        (("large", "cyan", "star"), ("small", "purple", "cross")), "below"
    )
    said = shapes.parse("a large cyan star with a small purple cross above it")
    assert said is not None
    assert said.relation == "below"  # the star, seen from the cross
    assert shapes.parse("a small pink circle") is None


@pytest.mark.parametrize("held_out", [False, True])
def test_scenes_have_five_different_true_captions(held_out):
    for i, scene in enumerate(scenes(held_out)):
        texts = shapes.captions(scene, np.random.default_rng(i))
        assert len(set(texts)) == 5
        assert all(shapes.is_true_and_complete(text, scene) for text in texts)
        for o in scene.objects:
            assert o.radius <= o.x <= shapes.IMAGE_SIZE - o.radius
            assert o.radius <= o.y <= shapes.IMAGE_SIZE - o.radius
        assert shapes.scene_from_json(shapes.scene_to_json(scene)) == scene


def test_captions_are_false_for_nearly_all_other_scenes():
    sample = scenes(False, 100)
    true = sum(
        shapes.is_true_and_complete(text, other)
        for i, scene in enumerate(sample)
        for text in shapes.captions(scene, np.random.default_rng(0))[:1]
        for j, other in enumerate(sample)
        if i != j
    )
    assert true < 30  # of 9,900; single objects do recur


def test_test_scenes_have_held_out_combinations():
    seen = scenes(False, 4000)
    kinds = {o.kind for scene in seen for o in scene.objects}
    pairs = {frozenset(o.kind for o in s.objects) for s in seen if len(s.objects) == 2}
    assert len(kinds) == 35
    assert {colour for colour, _ in kinds} == set(shapes.COLOURS)
    assert {shape for _, shape in kinds} == set(shapes.SHAPES)
    unseen_shapes = set()
    for scene in scenes(True):
        assert len(scene.objects) == 2
        assert frozenset(o.kind for o in scene.objects) not in pairs
        unseen_shapes.add(frozenset(o.shape for o in scene.objects))
    # What is new is the pair of kinds: every pair of shapes occurs, in training as well.
    together = {frozenset(o.shape for o in s.objects) for s in seen if len(s.objects) == 2}
    assert unseen_shapes == together
    assert len(together) == 15


def test_every_object_is_drawn_as_described():
    """Compare the number of pixels near an object's colour with the area from geometry."""
    share = {  # of the square of the radius
        "circle": np.pi,
        "square": 2.0,
        "triangle": 3 * np.sqrt(3) / 4,
        "star": 5 * 0.42 * np.sin(np.deg2rad(36)),
        "cross": 2 * (2 * 0.95 * 0.6) - 0.6**2,  # two bars less what they share
    }
    for colour, rgb in shapes.COLOURS.items():
        for shape, area in share.items():
            o = Object(shape, colour, 40.0, 38.0, 16.0)
            for i, background in enumerate(shapes.BACKGROUNDS):
                picture = shapes.draw(Scene((o,), background), np.random.default_rng(i))
                near = np.abs(picture.astype(int) - rgb).max(-1) <= 40
                assert near.sum() == pytest.approx(area * 16**2, rel=0.16), (shape, colour)
                y, x = np.nonzero(near)
                assert x.mean() == pytest.approx(40, abs=1.5)
                assert y.mean() == pytest.approx(38, abs=1.5)


def test_outlines_stay_inside_the_unit_circle():
    for shape in shapes.SHAPES:
        assert np.linalg.norm(shapes.unit_outline(shape), axis=-1).max() <= 1 + 1e-9, shape


def test_examples_are_deterministic():
    first, again = (shapes.make_example("dev", 17) for _ in range(2))
    assert first == again
    other = shapes.make_example("train", 17)
    assert other["scene"] != first["scene"]


def test_recipe(tmp_path):
    reports = []
    recipe = shapes.recipe({"train": 6, "test": 3})
    path = build(recipe, tmp_path, progress=lambda *report: reports.append(report))
    info = tfds.builder_from_directory(path).info
    assert {split: s.num_examples for split, s in info.splits.items()} == {"train": 6, "test": 3}
    assert info.metadata["flippable"] is False
    assert reports[-1] == ("shapes: storing", 9, 9)
