"""A captioner that reads recognised words, trained on several data sets and on text alone.

    pip install -e '.[pretrained]'
    jaxcap prepare flickr8k --source FLICKR8K_DIR
    jaxcap prepare folder --source FLICKR30K_DIR --name flickr30k
    jaxcap prepare folder --source ADE20K_DIR --name ade20k
    jaxcap prepare text --source FLICKR30K_CAPTIONS.token --name flickr30k_text
    jaxcap prepare text --source COCO_CAPTIONS.token --name coco_text
    jaxcap train words

For other data sets, `jaxcap configs words > mine.py` and change `mixed_with` and the weights, which
name one share of the steps for each data set.

The first stage trains the recogniser. The second trains the decoder on a frozen
EfficientNet-Lite2, the third also the encoder from stride 16 on, and the fourth maximises CIDEr-D.
All stages but the first read captions without photographs, the second and the last with a random
photograph beside them, so that the decoder learns to believe recognised words. The packaged model
was trained in stages such as these, but not in one run: see `docs/model_card.md`.
"""

from jaxcap.config import (
    Config,
    DataConfig,
    DecoderConfig,
    EncoderConfig,
    RecognitionConfig,
    SearchConfig,
    Stage,
    TrainConfig,
)

# flickr8k, flickr30k, ade20k (spoken descriptions: words, but no captions), and the two texts.
IMAGES, CAPTIONS, REWARDS = (3, 1.3, 1, 0, 0), (2.5, 1.2, 0, 1.7, 1.6), (2.2, 1, 0, 0.6, 1.7)

CONFIG = Config(
    data=DataConfig(
        name="flickr8k",
        mixed_with=("flickr30k", "ade20k", "flickr30k_text", "coco_text"),
        weights=CAPTIONS,
        image_size=256,
        min_count=5,
        max_words=3800,
        random_images=True,
        crop_min_scale=0.5,
        flip=True,
        color_jitter=0.2,
    ),
    encoder=EncoderConfig(
        name="efficientnet_lite2",
        weights="imagenet",
        batch_stats="frozen",
        trainable=False,
        learning_rate_factor=0.2,
    ),
    recognition=RecognitionConfig(
        words=20, detected=800, branch="block7", trainable=True, people_share=0.011
    ),
    decoder=DecoderConfig(
        name="attention",
        scoring="dot",
        embedding_size=320,
        embedding_dropout=0.3,
        feature_dropout=0.3,
        output_dropout=0.5,
        word_dropout=0.1,
        image_dropout=0.2,
    ),
    train=TrainConfig(
        batch_size=64,
        weight_decay=1e-2,
        label_smoothing=0.1,
        ema_decay=0.998,
        warmup_epochs=0.5,
    ),
    search=SearchConfig(
        beam_size=5,
        max_length=24,
        length_penalty=0.7,
        unrecognised_penalty=3.0,
        no_repeated_content=True,
    ),
    stages=(
        Stage(
            8,
            train={"objective": "word_detection", "learning_rate": 1e-3, "weight_decay": 0.1},
            data={"weights": IMAGES},
        ),
        Stage(2, train={"learning_rate": 1e-3, "schedule": "constant"}),
        Stage(
            10,
            train={"learning_rate": 6e-4},
            data={"random_images": False},
            encoder={"trainable": True, "train_from": "block7"},
        ),
        Stage(
            8,
            train={
                "objective": "self_critical",
                "learning_rate": 2e-4,
                "weight_decay": 0.0,
            },
            data={"weights": REWARDS, "crop_min_scale": 0.6, "color_jitter": 0.0},
            decoder={
                "embedding_dropout": 0.0,
                "feature_dropout": 0.1,
                "output_dropout": 0.0,
                "word_dropout": 0.1,
                "image_dropout": 0.1,
            },
        ),
    ),
)
