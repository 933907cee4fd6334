"""jaxcap's attention decoder and beam search in PyTorch, the reference of `search.py`.

Four optimised forms give the same captions:

- `tutorial`: one image at a time, with a beam of rows that shrinks as captions end. Features are
  repeated for every row and projected again at every word, as in the best known tutorial,
  https://github.com/sgrvinod/a-PyTorch-Tutorial-to-Image-Captioning (caption.py);
- `one by one`: the same loop, but the rows share features that are projected once;
- `batched`: all beams of a batch of images together;
- `compiled`: the same, with `torch.compile` for each step.

Ended captions compete with the others for a place in the beam and are ranked by log p / length, as
in jaxcap. The tutorial sets them aside.

    B images   K beams   T words at most   V vocabulary   P image positions
    D feature width   A attention width   H LSTM width
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

PAD, BOS, EOS, UNK = range(4)
NEVER = -1e9


class Found(NamedTuple):
    """K captions of each of B images, best first."""

    tokens: Tensor  # (B, K, T)
    scores: Tensor  # (B, K)
    weights: Tensor  # (B, K, T, P)


class Decoder(nn.Module):
    """Show, Attend and Tell as in jaxcap/model/decoders/attention.py, which names the equations."""

    def __init__(self, weights: dict[str, np.ndarray]) -> None:
        super().__init__()
        self.project = _linear(weights, "project")
        self.key = _linear(weights, "key")
        self.query = _linear(weights, "query")
        self.score = _linear(weights, "score") if "score/kernel" in weights else None
        self.init_c = _linear(weights, "init_c")
        self.init_h = _linear(weights, "init_h")
        self.gate = _linear(weights, "gate")
        self.embed = nn.Embedding.from_pretrained(
            torch.from_numpy(weights["word_embed/embedding"].copy())
        )
        self.cell = _lstm_cell(weights)
        self.output_h = _linear(weights, "output_h")
        self.output_z = _linear(weights, "output_z")
        self.output = _linear(weights, "output")

    def look(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return annotation vectors and keys `[B, P, A]` of features `[B, P, D]`."""
        annotations = F.relu(self.project(features))
        return annotations, self.key(annotations)

    def begin(self, annotations: Tensor) -> tuple[Tensor, Tensor]:
        """Return the first `(h, c)`, each `[B, H]`."""
        mean = annotations.mean(1)
        return torch.tanh(self.init_h(mean)), torch.tanh(self.init_c(mean))

    def forward(
        self, h: Tensor, c: Tensor, tokens: Tensor, annotations: Tensor, keys: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One word further: `(h, c [B, K, H], logits [B, K, V], weights [B, K, P])`.

        `annotations` and `keys` `[B, P, A]` are shared by the K beams.
        """
        query = self.query(h)
        if self.score is None:
            e = query @ keys.mT / math.sqrt(query.shape[-1])
        else:
            e = self.score(torch.tanh(query[:, :, None] + keys[:, None]))[..., 0]
        weights = e.softmax(-1)
        z = torch.sigmoid(self.gate(h)) * (weights @ annotations)
        embedding = self.embed(tokens)
        x = torch.cat([embedding, z], -1)
        h_flat, c_flat = self.cell(x.flatten(0, 1), (h.flatten(0, 1), c.flatten(0, 1)))
        h, c = h_flat.view_as(h), c_flat.view_as(c)
        return h, c, self.output(embedding + self.output_h(h) + self.output_z(z)), weights


def _linear(weights: dict[str, np.ndarray], name: str) -> nn.Linear:
    kernel = torch.from_numpy(weights[f"{name}/kernel"])
    bias = weights.get(f"{name}/bias")
    layer = nn.Linear(*kernel.shape, bias=bias is not None)
    with torch.no_grad():
        layer.weight.copy_(kernel.T)
        if bias is not None:
            layer.bias.copy_(torch.from_numpy(bias))
    return layer


def _lstm_cell(weights: dict[str, np.ndarray]) -> nn.LSTMCell:
    """Gates in PyTorch's order; Flax has one bias for each, PyTorch two."""
    of = {
        kind: torch.from_numpy(
            np.concatenate([weights[f"cell/{kind[0]}{gate}/{kind[1:]}"] for gate in "ifgo"], -1)
        )
        for kind in ("ikernel", "hkernel", "hbias")
    }
    cell = nn.LSTMCell(of["ikernel"].shape[0], of["hkernel"].shape[0])
    with torch.no_grad():
        cell.weight_ih.copy_(of["ikernel"].T)
        cell.weight_hh.copy_(of["hkernel"].T)
        cell.bias_ih.zero_()
        cell.bias_hh.copy_(of["hbias"])
    return cell


class State(NamedTuple):
    """The beams of a batch."""

    h: Tensor  # (B, K, H)
    c: Tensor  # (B, K, H)
    last: Tensor  # (B, K)
    scores: Tensor  # (B, K)
    done: Tensor  # (B, K)


class Chosen(NamedTuple):
    """The extension of the beams by one step."""

    tokens: Tensor  # (B, K)
    parents: Tensor  # (B, K)
    weights: Tensor  # (B, K, P), of the parents, not yet in the order of the children
    gaps: Tensor  # (B, 0), or between the last that was chosen and the next (B, 1)


class BatchedSearch:
    """Beam search over the images of a batch, all beams in one step."""

    def __init__(
        self, decoder: Decoder, *, beam_size: int, max_length: int, compiled: bool = False
    ) -> None:
        self.decoder, self.beam_size, self.max_length = decoder, beam_size, max_length
        self.spare = 0  # candidates looked at beyond those that are chosen
        self.extend = (
            torch.compile(self._extend, dynamic=False, fullgraph=True) if compiled else self._extend
        )

    @torch.inference_mode()
    def __call__(self, features: Tensor) -> Found:
        """Captions of features `[B, P, D]`."""
        return self._search(features)[0]

    @torch.inference_mode()
    def gaps(self, features: Tensor) -> Tensor:
        """By how little a candidate of each image missed the beam or the next rank, `[B]`."""
        self.spare = 1
        found, steps = self._search(features)
        self.spare = 0
        ranks = -found.scores.diff(dim=1)
        return torch.cat([ranks, *(step.gaps for step in steps)], 1).amin(1)

    def _search(self, features: Tensor) -> tuple[Found, list[Chosen]]:
        annotations, keys = self.decoder.look(features)
        h, c = self.decoder.begin(annotations)
        last = torch.full((len(features), 1), BOS, device=features.device)
        # All beams start equal, so the first step takes one, which then has K successors.
        state = State(
            h[:, None], c[:, None], last, features.new_zeros(last.shape), torch.zeros_like(last) > 0
        )
        steps: list[Chosen] = []
        while len(steps) < self.max_length and not state.done.all():
            state, chosen = self.extend(state, annotations, keys)
            steps.append(chosen)
        return self._follow(steps, state.scores), steps

    def _extend(self, state: State, annotations: Tensor, keys: Tensor) -> tuple[State, Chosen]:
        k = self.beam_size
        h, c, logits, weights = self.decoder(
            state.h, state.c, state.last, annotations, keys
        )  # fmt: skip
        log_probs = F.log_softmax(logits, -1)
        for word in (PAD, BOS, UNK):
            log_probs[..., word] = NEVER
        gains, words = log_probs.topk(k + self.spare)  # (B, K, K)
        # An ended caption has only one continuation: <pad>, at no cost.
        ended = torch.full_like(gains[0, 0], NEVER)
        ended[0] = 0.0
        gains = torch.where(state.done[..., None], ended, gains)
        words = torch.where(state.done[..., None], PAD, words)
        totals = state.scores[..., None] + gains
        scores, best = totals.flatten(1).topk(k + self.spare)  # (B, K)
        gaps = -scores[:, k - 1 :].diff(dim=1)
        scores, best = scores[:, :k], best[:, :k]
        parents = best // gains.shape[-1]
        tokens = words.flatten(1).gather(1, best)
        was_done = state.done.gather(1, parents)
        beams = state.h.shape[1]
        rows = torch.arange(len(h), device=h.device)[:, None] * beams + parents
        state = State(
            h.flatten(0, 1)[rows], c.flatten(0, 1)[rows], tokens, scores, was_done | (tokens == EOS)
        )
        return state, Chosen(tokens, parents, weights, gaps)

    def _follow(self, steps: list[Chosen], scores: Tensor) -> Found:
        """Walks each caption back from its last word, and ranks by log p / length."""
        tokens, weights = [], []
        beam = torch.arange(self.beam_size, device=scores.device).expand_as(scores)
        for step in reversed(steps):
            tokens.append(step.tokens.gather(1, beam))
            beam = step.parents.gather(1, beam)
            weights.append(
                step.weights.gather(1, beam[..., None].expand(-1, -1, step.weights.shape[-1]))
            )
        sequences = F.pad(torch.stack(tokens[::-1], -1), (0, self.max_length - len(steps)))
        lengths = (sequences != PAD).sum(-1)
        looks = torch.stack(weights[::-1], 2) * (sequences != PAD)[:, :, : len(steps), None]
        scores, order = (scores / lengths).sort(dim=-1, descending=True, stable=True)
        rows = torch.arange(len(order), device=order.device)[:, None]
        return Found(
            sequences[rows, order],
            scores,
            F.pad(looks[rows, order], (0, 0, 0, self.max_length - len(steps))),
        )


class LoopSearch:
    """Beam search in a Python loop over images, words and beams, with attention for each word."""

    def __init__(
        self, decoder: Decoder, *, beam_size: int, max_length: int, project_once: bool
    ) -> None:
        self.decoder, self.beam_size, self.max_length = decoder, beam_size, max_length
        self.project_once = project_once

    @torch.no_grad()
    def __call__(self, features: Tensor) -> Found:
        """Captions of features `[B, P, D]`, one image after the other."""
        found = [self._caption(of_image[None]) for of_image in features]
        return Found(*(torch.stack(parts) for parts in zip(*found, strict=True)))

    def _caption(self, features: Tensor) -> Found:
        k, size = self.beam_size, self.decoder.output.out_features
        device = features.device
        annotations, keys = self.decoder.look(features)
        h, c = (x.expand(k, -1) for x in self.decoder.begin(annotations))
        if not self.project_once:
            features = features.expand(k, -1, -1)
        words = torch.full((k, 1), BOS, device=device)
        sequences = words.new_zeros((k, 0))
        looks = features.new_zeros((k, 0, features.shape[1]))
        scores = features.new_zeros((k, 1))
        # (log p, words, attention) of captions that have ended and are among the best k.
        ended: list[tuple[float, Tensor, Tensor]] = []
        for step in range(self.max_length):
            if self.project_once:  # (1, s, ...): the rows share the image
                h, c, logits, weights = (
                    x[0] for x in self.decoder(h[None], c[None], words.mT, annotations, keys)
                )
            else:  # (s, 1, ...)
                h, c, logits, weights = (
                    x[:, 0]
                    for x in self.decoder(
                        h[:, None], c[:, None], words, *self.decoder.look(features)
                    )
                )
            log_probs = F.log_softmax(logits, dim=1)
            log_probs[:, [PAD, BOS, UNK]] = NEVER
            totals = scores + log_probs  # (s, V)
            if step == 0:
                top, places = totals[0].topk(k)
            else:
                top, places = totals.view(-1).topk(k)
            # Ended captions compete too; drop those below the best k.
            everything = sorted([*top.tolist(), *(log_prob for log_prob, _, _ in ended)])
            least = everything[-k]
            ended = [caption for caption in ended if caption[0] >= least]
            kept = top >= least
            top, places = top[kept], places[kept]
            parents, chosen = places // size, places % size
            sequences = torch.cat([sequences[parents], chosen[:, None]], dim=1)
            looks = torch.cat([looks[parents], weights[parents][:, None]], dim=1)
            going = [i for i, word in enumerate(chosen.tolist()) if word != EOS]
            for i in set(range(len(chosen))) - set(going):
                ended.append((float(top[i]), sequences[i], looks[i]))
            sequences, looks, scores = sequences[going], looks[going], top[going][:, None]
            h, c, words = h[parents[going]], c[parents[going]], chosen[going][:, None]
            if not self.project_once:
                features = features[parents[going]]
            if not going:
                break
        ended += list(zip(scores[:, 0].tolist(), sequences, looks, strict=True))
        ended.sort(key=lambda caption: -caption[0] / len(caption[1]))
        lengths = [self.max_length - len(words) for _, words, _ in ended]
        return Found(
            torch.stack([F.pad(w, (0, n)) for (_, w, _), n in zip(ended, lengths, strict=True)]),
            features.new_tensor([log_prob / len(words) for log_prob, words, _ in ended]),
            torch.stack(
                [F.pad(a, (0, 0, 0, n)) for (_, _, a), n in zip(ended, lengths, strict=True)]
            ),
        )
