"""Self-critical training of the captioner that `flickr8k_finetune.py` trains.

    jaxcap train flickr8k_scst
    jaxcap evaluate runs/flickr8k_scst --split dev

The encoder is frozen. There is hardly any dropout, so that samples come from nearly the same model
that is trained. The packaged model is the mean of the parameters of two such runs;
`docs/model_card.md` has the commands. `docs/results.md` has the results and other experiments.
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
    data=DataConfig(name="flickr8k", image_size=256, crop_min_scale=0.6, flip=True),
    encoder=EncoderConfig(name="efficientnet_lite2", trainable=False),
    decoder=DecoderConfig(
        name="attention",
        scoring="dot",
        embedding_size=320,
        embedding_dropout=0.0,
        feature_dropout=0.1,
        output_dropout=0.0,
    ),
    train=TrainConfig(
        start_from="runs/flickr8k_finetune",
        objective="self_critical",
        batch_size=32,
        epochs=6,
        learning_rate=2e-4,
        warmup_epochs=0.5,
        weight_decay=0.0,
        ema_decay=0.998,
    ),
    search=SearchConfig(beam_size=5, max_length=24, length_penalty=0.7),
)
