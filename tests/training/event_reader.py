"""Read TensorBoard's event files with the protobuf library, and compare them with the log."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from jaxcap.evaluation import read_metrics

# From tensorboard/compat/proto: (name, number, type, repeated); a message's type is its name.
_MESSAGES: dict[str, list[tuple[str, int, str, bool]]] = {
    "Image": [
        ("height", 1, "INT32", False),
        ("width", 2, "INT32", False),
        ("colorspace", 3, "INT32", False),
        ("encoded_image_string", 4, "BYTES", False),
    ],
    "Shape": [("unknown_rank", 3, "BOOL", False)],
    "Tensor": [
        ("dtype", 1, "INT32", False),
        ("tensor_shape", 2, "Shape", False),
        ("string_val", 8, "BYTES", True),
    ],
    "PluginData": [("plugin_name", 1, "STRING", False)],
    "Metadata": [("plugin_data", 1, "PluginData", False)],
    "Value": [
        ("tag", 1, "STRING", False),
        ("simple_value", 2, "FLOAT", False),
        ("image", 4, "Image", False),
        ("tensor", 8, "Tensor", False),
        ("metadata", 9, "Metadata", False),
    ],
    "Summary": [("value", 1, "Value", True)],
    "Session": [("status", 1, "INT32", False)],
    "Event": [
        ("wall_time", 1, "DOUBLE", False),
        ("step", 2, "INT64", False),
        ("file_version", 3, "STRING", False),
        ("summary", 5, "Summary", False),
        ("session_log", 7, "Session", False),
    ],
}


def _event_class() -> Any:
    types = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="events.proto", package="e", syntax="proto2")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, kind, repeated in fields:
            label = types.LABEL_REPEATED if repeated else types.LABEL_OPTIONAL
            added = message.field.add(name=field, number=number, label=label)
            if kind in _MESSAGES:
                added.type, added.type_name = types.TYPE_MESSAGE, f".e.{kind}"
            else:
                added.type = getattr(types, f"TYPE_{kind}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("e.Event"))


_EVENT = _event_class()


def read_events(path: Path) -> list[Any]:
    """Return all events of a file, without checking checksums."""
    content, events, at = path.read_bytes(), [], 0
    while at < len(content):
        (size,) = struct.unpack_from("<Q", content, at)
        event = _EVENT.FromString(content[at + 12 : at + 12 + size])
        # proto2 keeps fields that it does not know: there are none.
        assert event.ByteSize() == size
        events.append(event)
        at += 16 + size
    assert at == len(content)
    return events


def run_events(workdir: Path) -> list[Any]:
    """Return the events of a run: one file, besides the emptied one of an earlier session."""
    (path,) = (p for p in (workdir / "tensorboard").iterdir() if p.stat().st_size)
    return read_events(path)


def points(workdir: Path) -> list[tuple[str, int, float]]:
    return sorted(
        (value.tag, event.step, value.simple_value)
        for event in run_events(workdir)
        for value in event.summary.value
        if value.HasField("simple_value")
    )


def samples(workdir: Path) -> list[tuple[str, int]]:
    return sorted(
        (value.tag, event.step)
        for event in run_events(workdir)
        for value in event.summary.value
        if not value.HasField("simple_value")
    )


def assert_shows_its_log(workdir: Path) -> None:
    """Check that every metric of the log and all samples of every evaluation appear once."""
    log = read_metrics(workdir / "metrics.jsonl")
    expected = [
        (key if "/" in key else f"train/{key}", line["step"], pytest.approx(value, rel=1e-6))
        for line in log
        for key, value in line.items()
        if key not in ("step", "epoch", "elapsed_s")
    ]
    assert points(workdir) == sorted(expected, key=lambda point: point[:2])
    scored = [line["step"] for line in log if "dev/CIDEr-D" in line]
    # All six images of the split, for there are not more than eight, and the text.
    assert len(samples(workdir)) == len(set(samples(workdir))) == 7 * len(scored)
    assert {step for _, step in samples(workdir)} == set(scored)
