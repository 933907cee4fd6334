"""Write the model card of a captioner that is published on the Hugging Face Hub."""

from __future__ import annotations

from jaxcap.captioning.decoding import describe
from jaxcap.storage.trained import TrainedCaptioner

_CARD = """---
library_name: jaxcap
pipeline_tag: image-to-text
tags: [image-captioning, jax, flax]
---

# {title}

An image captioner of jaxcap: a convolutional encoder and an LSTM decoder in JAX.

{note}```
pip install 'jaxcap[hub]'
jaxcap caption PHOTO.jpg --model {reference}
```

```python
import jaxcap

for result in jaxcap.load("{reference}").caption("PHOTO.jpg"):
    print(result.error or result.captions[0].text)
```

| | |
|---|---|
| encoder | `{encoder}`, images of {image_size} pixels |
| decoder | `{decoder}` |
| vocabulary | {words:,} words |
| training data | `{data}` |
| training step | {step:,} |
| search | {search} |
"""


def model_card(captioner: TrainedCaptioner, reference: str, *, note: str | None = None) -> str:
    """Return the card as Markdown, with the metadata that the Hub reads.

    Args:
      reference: `hf:OWNER/NAME`, where the captioner will be.
      note: a line for users; None: `captioner.note`.
    """
    config, note = captioner.config, captioner.note if note is None else note
    return _CARD.format(
        title=reference.partition("@")[0].rpartition("/")[2],
        note=f"{note}\n\n" if note else "",
        reference=reference,
        encoder=config.encoder.name,
        image_size=config.data.image_size,
        decoder=config.decoder.name,
        words=len(captioner.vocabulary),
        data=config.data.name,
        step=captioner.step,
        search=describe(config.search),
    )
