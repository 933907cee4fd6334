"""jaxcap's captioner and its training step in PyTorch, the reference of `training.py`.

All forms have the same equations, parameters, loss, and optimizer:

- `pairs`: as the best known tutorial trains,
  https://github.com/sgrvinod/a-PyTorch-Tutorial-to-Image-Captioning (train.py, models.py). A batch
  consists of image–caption pairs, and each image is encoded for each of its captions. Captions are
  sorted by length, and a Python loop over words computes those that have not ended, including the
  logits. (The tutorial projects the features again at every word; here they are projected once.)
- `shared`: each image is encoded once for all its captions. Work without recurrence is outside the
  loop: the words' part of the gates before it, the logits of all words after it.
- `channels last`: the same, in the memory format that PyTorch recommends for convolutions.
- `torch.compile`: the same, with encoder, step, and logits compiled.

    B images   N captions of each   T words   V vocabulary   P positions   D feature width
    A attention width   E embedding width   H LSTM width
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pytorch_search import PAD, Decoder
from torch import Tensor, nn

Step = Callable[[], float]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The training options that both sides share; see `jaxcap.config`."""

    embedding_dropout: float
    feature_dropout: float
    output_dropout: float
    label_smoothing: float
    learning_rate: float
    weight_decay: float
    clip_norm: float
    dtype: str = "float32"


class Captioner(nn.Module):
    """jaxcap's encoder (None if features are given) and decoder, from jaxcap's `weights`."""

    def __init__(
        self, encoder: nn.Module | None, weights: dict[str, np.ndarray], recipe: Recipe
    ) -> None:
        super().__init__()
        self.encoder, self.decoder, self.recipe = encoder, Decoder(weights), recipe
        self.decoder.embed.weight.requires_grad_(True)
        self.advance: Any = self._advance
        self.readout: Any = self._readout
        self.encode: Any = encoder

    def compiled(self) -> Captioner:
        """Return the module with its parts compiled."""
        self.advance = torch.compile(self._advance, dynamic=False)
        self.readout = torch.compile(self._readout, dynamic=False)
        if self.encoder is not None:
            self.encode = torch.compile(self.encoder, dynamic=False)
        return self

    def features(self, images: Tensor) -> Tensor:
        """Encode images `[B, 3, S, S]` to `[B, P, D]`; pass precomputed features through."""
        if self.encoder is None:
            return images
        wide = self.recipe.dtype == "bfloat16"
        with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=wide):
            maps = self.encode(images)
        return maps.flatten(2).mT.float()

    def _begin(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        annotations = F.relu(self.decoder.project(features))
        annotations = F.dropout(annotations, self.recipe.feature_dropout, self.training)
        h, c = self.decoder.begin(annotations)
        return annotations, self.decoder.key(annotations), h, c

    def _embed(self, tokens: Tensor) -> Tensor:
        return F.dropout(self.decoder.embed(tokens), self.recipe.embedding_dropout, self.training)

    def _look(self, h: Tensor, annotations: Tensor, keys: Tensor) -> Tensor:
        """Return the gated context `[B, N, A]` of states `[B, N, H]`."""
        query = self.decoder.query(h)
        if self.decoder.score is None:
            e = query @ keys.mT / math.sqrt(query.shape[-1])
        else:
            e = self.decoder.score(torch.tanh(query[:, :, None] + keys[:, None]))[..., 0]
        return torch.sigmoid(self.decoder.gate(h)) * (e.softmax(-1) @ annotations)

    def _advance(
        self, gates: Tensor, h: Tensor, c: Tensor, annotations: Tensor, keys: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Read one word, given its part of the gates: `(h, c, z)`."""
        z = self._look(h, annotations, keys)
        cell = self.decoder.cell
        of_z = cell.weight_ih[:, cell.weight_ih.shape[1] - z.shape[-1] :]
        i, f, g, o = (gates + F.linear(z, of_z) + F.linear(h, cell.weight_hh)).chunk(4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c, z

    def _readout(self, embedding: Tensor, h: Tensor, z: Tensor) -> Tensor:
        x = embedding + self.decoder.output_h(h) + self.decoder.output_z(z)
        return self.decoder.output(F.dropout(x, self.recipe.output_dropout, self.training))

    def shared(self, images: Tensor, tokens: Tensor) -> Tensor:
        """Return the summed loss of captions `[B, N, T + 1]`, encoding each image once."""
        inputs, targets = tokens[:, :, :-1], tokens[:, :, 1:]
        annotations, keys, h, c = self._begin(self.features(images))
        h, c = (x[:, None].expand(-1, tokens.shape[1], -1) for x in (h, c))
        embedding = self._embed(inputs)  # (B, N, T, E)
        cell = self.decoder.cell
        of_words = cell.weight_ih[:, : embedding.shape[-1]]
        gates = F.linear(embedding, of_words, cell.bias_ih + cell.bias_hh)
        states = []
        for of_word in gates.unbind(2):
            h, c, z = self.advance(of_word, h, c, annotations, keys)
            states.append((h, z))
        h, z = (torch.stack(parts, 2) for parts in zip(*states, strict=True))
        return self._loss(self.readout(embedding, h, z), targets)

    def pairs(self, images: Tensor, tokens: Tensor) -> Tensor:
        """Return the summed loss of captions `[B, T + 1]`, the i-th of the i-th image."""
        lengths, order = (tokens[:, 1:] != PAD).sum(1).sort(descending=True)
        images, tokens = images[order], tokens[order]
        annotations, keys, h, c = self._begin(self.features(images))
        embeddings = self._embed(tokens[:, :-1])
        logits = embeddings.new_zeros(
            (len(tokens), int(lengths[0]), self.decoder.output.out_features)
        )
        for t in range(int(lengths[0])):
            going = int((lengths > t).sum())
            z = self._look(h[:going, None], annotations[:going], keys[:going])[:, 0]
            embedding = embeddings[:going, t]
            h, c = self.decoder.cell(torch.cat([embedding, z], 1), (h[:going], c[:going]))
            logits[:going, t] = self._readout(embedding, h, z)
        pack = nn.utils.rnn.pack_padded_sequence
        ends = lengths.tolist()
        predicted = pack(logits, ends, batch_first=True).data
        return self._loss(predicted, pack(tokens[:, 1:], ends, batch_first=True).data)

    def _loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(
            logits.flatten(0, -2),
            targets.flatten(),
            ignore_index=PAD,
            label_smoothing=self.recipe.label_smoothing,
            reduction="sum",
        )


def train_step(
    model: Captioner, loss: Callable[[Tensor, Tensor], Tensor], images: Tensor, tokens: Tensor
) -> Step:
    """Take an AdamW step on the clipped gradient of the mean loss per word; return that loss."""
    recipe = model.recipe
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in model.parameters() if p.ndim > 1]},
            {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        fused=True,
    )
    words = int((tokens[..., 1:] != PAD).sum())

    def step() -> float:
        mean = loss(images, tokens) / words
        optimizer.zero_grad(set_to_none=True)
        mean.backward()
        nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
        optimizer.step()
        return float(mean.detach())  # waits for the device

    return step


def published(encoder: nn.Module) -> dict[str, Any]:
    """Return the encoder's tensors under their published names."""
    state = encoder.state_dict()
    children = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
    if "0.weight" not in state:
        return dict(state)
    return {
        f"{children[int(key.partition('.')[0])]}.{key.partition('.')[2]}": value
        for key, value in state.items()
    }
