"""Self-critical training of the captioner that `flickr8k_best.py` trains.

    python train.py configs/flickr8k_scst.py
    python evaluate.py runs/flickr8k_scst --split dev

The encoder is frozen now, so its features are computed once. Results, and what else was tried:
`docs/results.md`.
"""

from jaxcap.config import (
    Config,
    DataConfig,
    DecoderConfig,
    EncoderConfig,
    SearchConfig,
    TrainConfig,
)

CONFIG = Config(
    data=DataConfig(name="flickr8k", image_size=256),
    encoder=EncoderConfig(name="efficientnet_lite2", trainable=False, cache_features=True),
    decoder=DecoderConfig(
        name="attention",
        scoring="dot",
        embedding_size=320,
        embedding_dropout=0.3,
        feature_dropout=0.3,
        output_dropout=0.5,
    ),
    train=TrainConfig(
        start_from="runs/flickr8k_best",
        objective="self_critical",
        batch_size=32,
        epochs=8,
        learning_rate=2e-4,
        warmup_epochs=0.5,
        weight_decay=0.0,
        ema_decay=0.998,
    ),
    search=SearchConfig(beam_size=5, max_length=24, length_penalty=0.7),
)
