r"""Show and Tell (Vinyals et al. 2015), end to end: train ResNet-50 and an LSTM together.

    jaxcap prepare flickr8k --source FLICKR8K_DIR
    jaxcap train show_and_tell
    jaxcap evaluate runs/show_and_tell --split dev

Gradients reach the first convolution. The encoder starts from random weights, so this needs a GPU
and the 30 epochs below, which have not been measured. As a check on photographs, two epochs at 96
pixels on two CPU cores,

    jaxcap train show_and_tell --workdir runs/show_and_tell_96 \
      --data.image-size 96 --train.epochs 2 --train.batch-size 16 --train.warmup-epochs 0.3

take 15 minutes on busy cores and give, on the development split of Flickr8k with beam 3, length
penalty 1, seed 0: BLEU-1 48.3, BLEU-4 7.7, ROUGE-L 34.0, CIDEr-D 10.7.
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
