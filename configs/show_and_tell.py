"""Show and Tell (Vinyals et al. 2015), end to end: ResNet-50 and an LSTM learn together.

    jaxcap prepare flickr8k --source FLICKR8K_DIR
    python train.py configs/show_and_tell.py
    python evaluate.py runs/show_and_tell --split dev

Gradients reach the first convolution. Meant for a GPU.
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
    encoder=EncoderConfig(name="resnet50", learning_rate_factor=1.0),
    decoder=DecoderConfig(name="lstm", embedding_dropout=0.3, output_dropout=0.5),
    train=TrainConfig(batch_size=32, epochs=30, learning_rate=4e-4, label_smoothing=0.1),
    search=SearchConfig(beam_size=3, max_length=24),
)
