"""The decoders by hand: numpy and float64, one caption of one image, an equation after the other.

Each function takes parameters, features `[P, D]` and words, and returns logits and attention
weights of every step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Tree = Any
Logits = list[Any]


def _sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def _softmax(x: Any) -> Any:
    return np.exp(x) / np.exp(x).sum()


def _relu(x: Any) -> Any:
    return np.maximum(x, 0)


def _dense(params: Tree, x: Any) -> Any:
    return x @ params["kernel"].astype(np.float64) + params.get("bias", 0.0)


def _word(params: Tree, token: int) -> Any:
    return params["word_embed"]["embedding"][token].astype(np.float64)


def _flax_lstm(params: Tree, c: Any, h: Any, x: Any) -> tuple[Any, Any]:
    """Hochreiter and Schmidhuber 1997 with forget gates; Flax puts the bias on h."""
    i, f, g, o = (x @ params[f"i{k}"]["kernel"] + _dense(params[f"h{k}"], h) for k in "ifgo")
    c = _sigmoid(f) * c + _sigmoid(i) * np.tanh(g)
    return c, _sigmoid(o) * np.tanh(c)


def _lstm(params: Tree, c: Any, h: Any, x: Any, kernel: Any = None) -> tuple[Any, Any]:
    """The same, with the gates' matrices side by side; `kernel` in the place of that of x."""
    kernel = params["x"]["kernel"] if kernel is None else kernel
    gates = x @ kernel.astype(np.float64) + _dense(params["h"], h)
    i, f, g, o = gates.reshape(4, -1)
    c = _sigmoid(f) * c + _sigmoid(i) * np.tanh(g)
    return c, _sigmoid(o) * np.tanh(c)


def _score(params: Tree, query: Any, key: Any) -> float:
    """Bahdanau's, where the parameters have a w; else the scaled dot product."""
    if "score" in params:
        return float(_dense(params["score"], np.tanh(query + key))[0])
    return float(query @ key) / np.sqrt(len(query))


def show_and_tell(params: Tree, features: Any, tokens: Sequence[int]) -> tuple[Logits, Logits]:
    image = _dense(params["image_embed"], features.mean(axis=0))
    c, h = _flax_lstm(params["cell"], *np.zeros((2, len(params["cell"]["hi"]["bias"]))), image)
    logits = []
    for token in tokens:
        c, h = _flax_lstm(params["cell"], c, h, _word(params, token))
        logits.append(_dense(params["output"], h))
    return logits, [np.zeros(0)] * len(logits)


def show_attend_and_tell(
    params: Tree, features: Any, tokens: Sequence[int]
) -> tuple[Logits, Logits]:
    a = _relu(_dense(params["project"], features))
    c = np.tanh(_dense(params["init_c"], a.mean(axis=0)))
    h = np.tanh(_dense(params["init_h"], a.mean(axis=0)))
    logits, weights = [], []
    for token in tokens:
        query = _dense(params["query"], h)
        alpha = _softmax([_score(params, query, key) for key in _dense(params["key"], a)])
        z = sum(alpha[p] * a[p] for p in range(len(a))) * _sigmoid(_dense(params["gate"], h))
        y = _word(params, token)
        c, h = _flax_lstm(params["cell"], c, h, np.concatenate([y, z]))
        deep = y + _dense(params["output_h"], h) + _dense(params["output_z"], z)
        logits.append(_dense(params["output"], deep))
        weights.append(alpha)
    return logits, weights


def top_down(params: Tree, features: Any, tokens: Sequence[int]) -> tuple[Logits, Logits]:
    v = _relu(_dense(params["project"], features))
    size = params["attention_lstm"]["h"]["kernel"].shape[0]
    c1, h1, c2, h2 = np.zeros((4, size))
    of_x, of_mean = params["attention_lstm"]["x"]["kernel"], params["mean_gates"]["kernel"]
    whole = np.concatenate([of_x[:size], of_mean, of_x[size:]])  # of [h²; v̄; word]
    logits, weights = [], []
    for token in tokens:
        x1 = np.concatenate([h2, v.mean(axis=0), _word(params, token)])
        c1, h1 = _lstm(params["attention_lstm"], c1, h1, x1, whole)
        scores = params["scores"]
        query = _dense(scores["query"], h1)
        alpha = _softmax([_score(scores, query, _dense(scores["key"], vi)) for vi in v])
        seen = sum(alpha[i] * v[i] for i in range(len(v)))
        c2, h2 = _lstm(params["language_lstm"], c2, h2, np.concatenate([seen, h1]))
        logits.append(_dense(params["output"], h2))
        weights.append(alpha)
    return logits, weights


def adaptive(params: Tree, features: Any, tokens: Sequence[int]) -> tuple[Logits, Logits]:
    """ĉ as the paper writes it, with a β and with α over the positions alone."""
    v = _relu(_dense(params["project"], features))
    mean = _relu(_dense(params["project_mean"], features.mean(axis=0)))
    size = params["cell"]["h"]["kernel"].shape[0]
    m, h = np.zeros((2, size))
    of_gates = np.concatenate([params["cell"]["x"]["kernel"], params["mean_gates"]["kernel"]])
    of_sentinel = np.concatenate(
        [params["sentinel_x"]["kernel"], params["mean_sentinel"]["kernel"]]
    ).astype(np.float64)
    scores = params["scores"]
    logits, weights = [], []
    for token in tokens:
        x = np.concatenate([_word(params, token), mean])
        gate = _sigmoid(x @ of_sentinel + _dense(params["sentinel_h"], h))
        m, h = _lstm(params["cell"], m, h, x, of_gates)
        s = gate * np.tanh(m)
        query = _dense(scores["query"], h)
        z = np.array([_score(scores, query, _dense(scores["key"], vi)) for vi in v])
        alpha = _softmax(z)
        beside = _score(scores, query, _dense(params["sentinel_key"], s))
        beta = _softmax(np.append(z, beside))[-1]
        c = beta * s + (1 - beta) * (alpha @ v)
        logits.append(_dense(params["output"], c + h))
        weights.append((1 - beta) * alpha)
    return logits, weights


def _multi_head(q: Any, keys: Any, values: Any, heads: int) -> tuple[Any, Any]:
    """Of one query; the heads' parts are slices."""
    size = len(q) // heads
    seen, weights = [], []
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        alpha = _softmax(keys[:, part] @ q[part] / np.sqrt(size))
        seen.append(alpha @ values[:, part])
        weights.append(alpha)
    return np.concatenate(seen), np.mean(weights, axis=0)


def _aoa(params: Tree, q: Any, seen: Any) -> Any:
    gate, information = (_dense(params["q"], q) + _dense(params["v"], seen)).reshape(2, -1)
    return _sigmoid(gate) * information


def attention_on_attention(
    params: Tree, features: Any, tokens: Sequence[int], *, heads: int, layers: int
) -> tuple[Logits, Logits]:
    a = _relu(_dense(params["project"], features))
    size = a.shape[1]
    for number in range(layers):
        layer = params[f"refiner_{number}"]
        q, k, v = (_dense(layer["qkv"], a)[:, i * size : (i + 1) * size] for i in range(3))
        found = [_aoa(layer["aoa"], qi, _multi_head(qi, k, v, heads)[0]) for qi in q]
        summed = a + np.stack(found)
        centred = summed - summed.mean(axis=1, keepdims=True)
        normed = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-6)
        a = normed * layer["norm"]["scale"] + layer["norm"]["bias"]
    keys, values = _dense(params["key"], a), _dense(params["value"], a)
    m, h = np.zeros((2, params["cell"]["h"]["kernel"].shape[0]))
    c = np.zeros(size)
    logits, weights = [], []
    for token in tokens:
        x = np.concatenate([_word(params, token), a.mean(axis=0) + c])
        m, h = _lstm(params["cell"], m, h, x)
        q = _dense(params["query"], h)
        seen, alpha = _multi_head(q, keys, values, heads)
        c = _aoa(params["aoa"], q, seen)
        logits.append(_dense(params["output"], c))
        weights.append(alpha)
    return logits, weights


def sca(params: Tree, features: Any, tokens: Sequence[int]) -> tuple[Logits, Logits]:
    v = _relu(_dense(params["project"], features))
    means, size = v.mean(axis=0), v.shape[1]
    c, h = (np.tanh(_dense(params[name], means)) for name in ("init_c", "init_h"))
    by_channel, by_position = params["channels"], params["positions"]
    logits, weights = [], []
    for token in tokens:
        query = _dense(by_channel["query"], h)
        if "score" in by_channel:
            columns = [_dense(by_channel["mean"], means[k : k + 1]) for k in range(size)]
            beta = _softmax([_score(by_channel, query, column) for column in columns])
        else:
            beta = _softmax([means[k] * query[k] for k in range(size)])
        modulated = v * (beta * size)
        query = _dense(by_position["query"], h)
        keys = [_dense(by_position["key"], vi) if "key" in by_position else vi for vi in modulated]
        alpha = _softmax([_score(by_position, query, key) for key in keys])
        y = _word(params, token)
        c, h = _lstm(params["cell"], c, h, np.concatenate([y, alpha @ modulated]))
        logits.append(_dense(params["output"], y + _dense(params["output_h"], h)))
        weights.append(alpha)
    return logits, weights
