"""The options, by section: frozen dataclasses whose docstrings are the help of the command line."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True)
class DataConfig:
    """Which pictures and captions, and the form in which they reach the model."""

    name: str = "flickr8k"
    """A data set built by `jaxcap prepare`."""
    data_dir: str | None = None
    """Where prepared data sets lie; default $TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    image_size: int = 224
    """Side in pixels of the square that every image is stretched to."""
    captions_per_image: int = 5
    """The axis N: captions of one image that are trained on together."""
    min_count: int = 5
    """A word (or other unit) seen less often than this in the training split becomes <unk>."""
    units: Literal["words", "characters", "pieces"] = "words"
    """What captions are made of: words; characters, for scripts that set no spaces between words;
    or pieces of words, for any language (these need jaxcap[pieces])."""
    normalisation: Literal["none", "NFC", "NFKC"] = "NFC"
    """Unicode's normal form for captions: NFC makes the ways to write é one, NFKC also full-width
    and half-width letters. English does not change."""
    pieces_model: str | None = None
    """A SentencePiece .model file for units pieces; the run keeps a copy. None: pieces are learnt
    from the training captions, by byte-pair encoding."""
    vocabulary_size: int = 4000
    """How many pieces are learnt, at most."""
    length_buckets: tuple[int, ...] = (16, 20, 24, 32)
    """Token lengths that batches are padded to; captions are cut at the longest. With more than
    one, images of similar caption length share a batch."""
    crop_min_scale: float = 1.0
    """Augmentation: smallest share of the area a random crop keeps; 1 means no crop."""
    flip: bool = False
    """Augmentation: mirror half of the images."""
    color_jitter: float = 0.0
    """Augmentation: brightness, contrast and saturation are each multiplied by a random factor, at
    most this far from 1."""

    @property
    def directory(self) -> Path | None:
        """`data_dir` as a path."""
        return None if self.data_dir is None else Path(self.data_dir).expanduser()


@dataclass(frozen=True)
class EncoderConfig:
    """The convolutional network, and whether it learns."""

    name: str = "resnet50"
    """An architecture; an unknown name lists them."""
    weights: str | None = None
    """"imagenet", an installed weight package's name, a weight file, or none (random)."""
    trainable: bool = True
    """False keeps parameters and batch statistics bit-identical."""
    train_from: str | None = None
    """The first stage that learns, such as stage4; those before it are frozen, parameters and
    batch statistics, bit for bit. None: all learn. An unknown name lists the encoder's stages."""
    batch_stats: Literal["trained", "frozen"] = "trained"
    """What learning stages normalise by: the batch, updating the stored statistics; or the stored
    ones, which then stay bit-identical (usual for small batches and published weights)."""
    learning_rate_factor: float = 1.0
    """The encoder's learning rate relative to the decoder's. 0 is not frozen: batch statistics
    still follow the data, and all is computed as if it learned."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What the encoder computes in. Parameters, statistics, checkpoints and the features given to
    the decoder are float32 in any case. bfloat16 keeps two to three digits, and is for
    GPU and TPU: on a CPU it is no faster."""
    cache_features: bool = False
    """Of a frozen encoder, without augmentation: compute the features of each image once, keep
    them on disk, and train the decoder from there. Losses are the same."""
    cache_dir: str | None = None
    """Where features are kept; default $XDG_CACHE_HOME/jaxcap/features, else
    ~/.cache/jaxcap/features. What lies there may be deleted at any time."""


@dataclass(frozen=True)
class DecoderConfig:
    """The language model on top of the image features."""

    name: Literal["attention", "lstm", "topdown", "adaptive", "aoa", "sca"] = "attention"
    """Show, Attend and Tell (Xu et al. 2015); Show and Tell (Vinyals et al. 2015); top-down
    attention (Anderson et al. 2018); adaptive attention with a visual sentinel (Lu et al. 2017);
    attention on attention (Huang et al. 2019); SCA-CNN (Chen et al. 2017)."""
    hidden_size: int = 512
    """H, width of the LSTM, or of each of the two."""
    embedding_size: int = 512
    """E, width of the word embeddings."""
    attention_size: int = 512
    """A, width of the projected features and of the space they are scored in."""
    scoring: Literal["additive", "dot"] = "additive"
    """How attention compares state and features: Bahdanau's MLP or a scaled dot product, which
    is much faster. aoa always takes the latter."""
    heads: int = 8
    """aoa: parts of A that are each attended by on their own."""
    refiner_layers: int = 2
    """aoa: layers of self-attention over the features before the decoder; 6 in the paper."""
    embedding_dropout: float = 0.0
    feature_dropout: float = 0.0
    output_dropout: float = 0.5
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What matrix products are computed in. Parameters, sums, softmax, the LSTM's cell, logits and
    the loss are float32 in any case. bfloat16 keeps two to three digits, and is for GPU and TPU."""


@dataclass(frozen=True)
class TrainConfig:
    """How the parameters move."""

    batch_size: int = 32
    """B, images per step; each brings all its captions."""
    epochs: int = 10
    """Times that each image is seen; a run with stages has theirs instead."""
    start_from: str | None = None
    """A run, or a file of jaxcap export, that training goes out from: its parameters, statistics
    and vocabulary, in the place of random numbers, of encoder.weights and of the words of the
    training split. None: from the beginning."""
    optimizer: Literal[
        "adamw",
        "adam",
        "nadamw",
        "adabelief",
        "lion",
        "adafactor",
        "rmsprop",
        "adagrad",
        "sgd",
    ] = "adamw"
    """Optax's, of that name. Their learning rates differ: lion wants less than a third of AdamW's,
    sgd more."""
    learning_rate: float = 1e-3
    """Peak of the schedule, which begins with a linear warm-up."""
    warmup_epochs: float = 1.0
    schedule: Literal["cosine", "linear", "constant", "exponential", "step"] = "cosine"
    """After the warm-up: down to zero at the last step, in a cosine or a line; the peak throughout;
    or times decay_rate every decay_epochs, little by little or at once."""
    decay_rate: float = 0.5
    """exponential and step: what the learning rate is multiplied by."""
    decay_epochs: float = 3.0
    """exponential and step: after how many epochs it is."""
    momentum: float = 0.9
    """sgd: share of the last step that is taken again."""
    weight_decay: float = 1e-4
    """Decoupled from the gradient; on matrices only, not on biases and normalisation. adam has
    none."""
    clip_norm: float = 5.0
    """Global norm that gradients are clipped to."""
    label_smoothing: float = 0.0
    attention_penalty: float = 0.0
    """Weight of the attention's second sum in the loss, by which every position of an image is to
    be looked at as much as the others (Xu et al. 2015, equation 14, λ; 1 is usual)."""
    sampling: Literal["none", "linear", "exponential", "inverse_sigmoid"] = "none"
    """Scheduled sampling (Bengio et al. 2015): each word that the decoder reads is the true one
    with a probability that falls with the number i of the step, else the model's own. With k and c
    from below: k - c i; k**i; k / (k + exp(i / k)). none: always the true one."""
    sampling_k: float = 1.0
    """linear: at most 1; exponential: less than 1, such as 0.9999; inverse_sigmoid: at least 1,
    such as 1000."""
    sampling_c: float = 0.0
    """linear: by how much the probability falls at each step, such as 0.0001."""
    sampling_floor: float = 0.0
    """The probability of the true word falls no lower."""
    sampling_words: Literal["sampled", "greedy"] = "sampled"
    """The model's own words: drawn by their probabilities, or the likeliest."""
    objective: Literal["cross_entropy", "self_critical"] = "cross_entropy"
    """What is learnt from: the words of the data's captions; or the rewards of captions that the
    model draws itself, once it can speak (self-critical sequence training, Rennie et al. 2017).
    With these label_smoothing, attention_penalty and scheduled sampling are refused; a stage that
    is self_critical does not inherit them."""
    samples: int = 5
    """self_critical: captions drawn for each image, at temperature 1, of up to search.max_length
    words."""
    baseline: Literal["mean", "greedy"] = "mean"
    """self_critical: what a caption's reward is compared with: the mean of the others drawn for the
    same image (Luo 2020), or that of the caption of greedy search (Rennie et al. 2017)."""
    reward_cider: float = 1.0
    """self_critical: weight of CIDEr-D, which is from 0 to 10, in the reward."""
    reward_bleu: float = 0.0
    """self_critical: weight of BLEU-4, which is from 0 to 1, in the reward."""
    accumulate: int = 1
    """Parts that the batch is computed in, one after the other, before the optimizer's step: as
    many times less memory. The loss is that of the whole batch, but batch normalisation sees one
    part at a time, unless encoder.batch_stats is frozen."""
    remat: Literal["none", "encoder", "decoder", "both"] = "none"
    """What is computed again for the gradient and not kept from the way forward, to save memory:
    the insides of the encoder's stages, of the decoder's steps, or both."""
    ema_decay: float = 0.0
    """The parameters evaluated and kept are averages over the last 1 / (1 - ema_decay) steps or so;
    0.999 is usual. 0: they are those of the last step."""
    seed: int = 0
    log_every: int = 20
    """Steps between lines of metrics.jsonl."""
    tensorboard: bool = True
    """Files for TensorBoard too, in tensorboard/ of the run: all figures, and some images of the
    evaluated split with their captions after each epoch."""
    save_every: int = 0
    """Steps between checkpoints, beside those at the ends of epochs; 0: the clock alone decides."""
    save_minutes: float = 10.0
    """Minutes after which a checkpoint is saved in the middle of an epoch; 0: none is."""
    patience: int = 0
    """Epochs without a better evaluation.metric after which training ends; 0: it never does."""
    parallel: Literal["auto", "jit", "pmap"] = "auto"
    """How devices share a step: by jax.jit over a mesh (auto too), or by jax.pmap. The losses and
    parameters are the same."""
    device: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    """The kind of device to train on. auto: the best that JAX finds, which may be the CPU."""
    coordinator: str | None = None
    """Several processes: HOST:PORT of process 0; default $JAX_COORDINATOR_ADDRESS. Slurm, Open MPI
    before 5 and TPU pods need none of these three. All processes must see the same --workdir."""
    processes: int | None = None
    """How many processes there are; default $JAX_NUM_PROCESSES."""
    process_id: int | None = None
    """The number of this process, from 0; default $JAX_PROCESS_ID."""
    coordinator_timeout: float = 300.0
    """Seconds that processes wait for each other at the start."""


@dataclass(frozen=True)
class SearchConfig:
    """How captions are decoded."""

    method: Literal["beam", "diverse", "greedy", "sample"] = "beam"
    """Beam search; diverse beam search (Vijayakumar et al. 2016), in groups that avoid each
    other's words; the likeliest word each time; or words drawn at random."""
    beam_size: int = 3
    """Beginnings kept by the two beam searches, of all groups together."""
    n_best: int = 0
    """Captions returned by the beam searches, best first; 0: as many as there are beams."""
    min_length: int = 0
    """Shortest caption, in words."""
    max_length: int = 24
    """Longest caption, in words."""
    length_normalisation: Literal["none", "average", "exponent", "gnmt"] = "exponent"
    """What captions of beam search are ranked by: log p; log p / length; log p / length**a, or
    log p / ((5 + length) / 6)**a (Wu et al. 2016), with a = length_penalty."""
    length_penalty: float = 1.0
    """Exponent a of the length, which counts the end of the caption as a word."""
    groups: int = 3
    """diverse: groups that the beams are divided into, equally."""
    diversity: float = 0.5
    """diverse: what a group takes off the log probability of a word for each beam of the groups
    before it that has chosen this word at this time; 0.2 to 0.8 are usual."""
    samples: int = 5
    """sample: captions drawn for each image."""
    temperature: float = 1.0
    """sample: below 1 likely words become likelier, above 1 the others do."""
    top_k: int = 0
    """sample: draw from that many likeliest words; 0: from all."""
    top_p: float = 1.0
    """sample: draw from the fewest words whose probabilities come to this (Holtzman et al. 2020),
    after temperature and top_k."""
    seed: int = 0
    """sample: an image and a seed always give the same captions, whatever else is captioned."""
    banned_words: tuple[str, ...] = ()
    """Words that no caption may hold."""
    required_words: tuple[str, ...] = ()
    """beam: words that each caption must hold, at most 4 (Anderson et al. 2017). Alternatives are
    written with a bar, as in "dog|dogs|puppy". The search takes 2, 4, 8, 16 times as long."""
    no_repetition: bool = False
    """No word twice in succession."""
    no_repeated_ngram: int = 0
    """No that many words in succession twice; 0: no such rule, 3 is usual."""
    no_function_word_end: bool = False
    """No caption ends on an English function word, such as "a" or "with"."""


@dataclass(frozen=True)
class EvaluationConfig:
    """What is looked at after every epoch."""

    split: str = "dev"
    metric: str = "CIDEr-D"
    """The score that decides which checkpoint is best (higher is better)."""
    batch_size: int = 50
    units: Literal["words", "characters"] | None = None
    """What scores count: the words of papers on English, or characters, for scripts that set no
    spaces between words. None: characters where data.units is characters, else words."""


@dataclass(frozen=True)
class Stage:
    """A part of a training, with options of its own: `Stage(3, encoder={"trainable": False})`."""

    epochs: int
    train: dict[str, Any] = field(default_factory=dict)
    """Options of train that are other than in the configuration, until the stage ends."""
    encoder: dict[str, Any] = field(default_factory=dict)
    """The same of encoder."""
    data: dict[str, Any] = field(default_factory=dict)
    """The same of data: its augmentation."""


@dataclass(frozen=True)
class Config:
    """A whole experiment."""

    data: DataConfig = field(default_factory=DataConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    stages: tuple[Stage, ...] = ()
    """One after the other in a single training; none: train.epochs as everything above says."""
