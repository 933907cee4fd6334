"""The options, by section: frozen dataclasses that declare each option once.

A field holds the type, the bounds, the scope and the default of its option. Its docstring is the
help of the command line.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from jaxcap.config.local_paths import local_path
from jaxcap.config.options import (
    AppliesTo,
    Bounds,
    Count,
    Flag,
    Fraction,
    MaxItems,
    Operational,
    PerStage,
    Positive,
    Rate,
    Share,
    UpTo,
)

_MAX_WIDTH = 16_384
_MAX_TOKENS = 4096
_MAX_EPOCHS = 100_000
_MAX_BATCH = 65_536
_MAX_CAPTIONS = 1000
_MAX_STEPS = 10**9
_MAX_WORDS = 10**6
_MAX_LAYERS = 16
"""Every layer lengthens the program: 64 of them take minutes to compile on a CPU."""
MAX_REQUIRED = 4
"""Maximum number of words that a search can require: the time doubles with each."""
_Seed = Bounds(0, 2**32 - 1)

_CrossEntropy = AppliesTo("objective", ("cross_entropy",))
_SelfCritical = AppliesTo("objective", ("self_critical",))
_Beams = AppliesTo("method", ("beam", "diverse"))
_Beam = AppliesTo("method", ("beam",))
_Diverse = AppliesTo("method", ("diverse",))
_Sample = AppliesTo("method", ("sample",))
_Aoa = AppliesTo("name", ("aoa",))


@dataclass(frozen=True)
class DataConfig:
    """The images and captions, and the form in which they reach the model."""

    name: str = "flickr8k"
    """A data set built by `jaxcap prepare`. Its other splits are for evaluation."""
    mixed_with: Annotated[tuple[str, ...], MaxItems(100)] = ()
    """Further prepared data sets to train on, photographs or text alone. The vocabulary is that of
    all of them."""
    weights: Annotated[tuple[float, ...], UpTo(1e9), PerStage] = ()
    """Shares of the steps that read name and each of mixed_with, in this order; 0: not read. An
    epoch is one pass over the first one that is read. None: in proportion to their numbers of
    images."""
    random_images: Annotated[bool, PerStage] = False
    """Show a random training photograph with captions that have none, so that only their recognised
    words are right and the decoder learns to believe them; False: show no image."""
    data_dir: Annotated[str | None, Operational] = None
    """Folder of the prepared data sets; default $TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    image_size: Annotated[int, Count(2048)] = 224
    """Side in pixels of the square that every image is resized to."""
    captions_per_image: Annotated[int, Count(_MAX_CAPTIONS)] = 5
    """N, the number of captions of each image that a step trains on."""
    min_count: Annotated[int, Count(_MAX_STEPS)] = 5
    """Words (or other units) that occur less often than this in the training split become <unk>."""
    max_words: Annotated[int, Count(_MAX_WORDS)] = _MAX_WORDS
    """Largest number of words in the vocabulary; rarer ones become <unk>, too."""
    units: Literal["words", "characters", "pieces"] = "words"
    """The units of captions: words; characters, for scripts without spaces between words; or
    pieces of words, for any language (these need jaxcap[pieces])."""
    normalisation: Literal["none", "NFC", "NFKC"] = "NFC"
    """Unicode normal form of captions. NFC unifies the ways to write é; NFKC also unifies
    full-width and half-width letters. English text is unaffected."""
    pieces_model: Annotated[str | None, Operational] = None
    """A SentencePiece .model file for units pieces; the run keeps a copy. None: learn pieces from
    the training captions by byte-pair encoding."""
    vocabulary_size: Annotated[int, Count(_MAX_WORDS)] = 4000
    """Largest number of pieces to learn."""
    length_buckets: Annotated[tuple[int, ...], Bounds(2, _MAX_TOKENS)] = (16, 20, 24, 32)
    """Token lengths that batches are padded to; longer captions are cut at the last. With more
    than one, images of similar caption length share a batch."""
    crop_min_scale: Annotated[float, Share, PerStage] = 1.0
    """Augmentation: smallest share of the area that a random crop keeps; 1: no crop."""
    flip: Annotated[bool, PerStage] = False
    """Augmentation: mirror half of the images."""
    color_jitter: Annotated[float, Rate, PerStage] = 0.0
    """Augmentation: multiply brightness, contrast and saturation by random factors that differ
    from 1 by at most this."""

    @property
    def names(self) -> tuple[str, ...]:
        """The data sets to train on: `name`, then those of `mixed_with`."""
        return (self.name, *self.mixed_with)

    @property
    def directory(self) -> Path | None:
        """`data_dir` as a path."""
        return None if self.data_dir is None else local_path(self.data_dir, "data.data_dir")


@dataclass(frozen=True)
class EncoderConfig:
    """The convolutional network, and whether it is trained."""

    name: str = "resnet50"
    """The architecture, or your own as module:SPEC. An unknown name lists the architectures."""
    weights: str | None = None
    """"imagenet", the name of an installed weight package, a weight file, hf:OWNER/NAME on the
    Hugging Face Hub, or none (random)."""
    trainable: Annotated[bool, PerStage] = True
    """False freezes parameters and batch statistics: they stay bit-identical."""
    train_from: Annotated[str | None, PerStage] = None
    """The first stage that is trained, such as stage4; earlier stages are frozen, parameters and
    batch statistics. None: train all. An unknown name lists the encoder's stages."""
    batch_stats: Annotated[Literal["trained", "frozen"], PerStage] = "trained"
    """Statistics that trained stages normalise by: those of the batch, which update the stored
    ones; or the stored ones, frozen (usual for small batches and pretrained weights)."""
    learning_rate_factor: Annotated[float, UpTo(1000), PerStage] = 1.0
    """The encoder's learning rate relative to the decoder's. 0 does not freeze: batch statistics
    still follow the data, and training costs the same."""
    dtype: Annotated[Literal["float32", "bfloat16"], PerStage] = "float32"
    """Type that the encoder computes in. Parameters, statistics, checkpoints and the features for
    the decoder are always float32. bfloat16 keeps two to three digits and is for GPU and TPU; it
    is no faster on a CPU."""
    cache_features: Annotated[bool, PerStage, Operational] = False
    """For a frozen encoder without augmentation: compute the features of each image once, keep
    them on disk, and train the decoder on them. Losses are the same."""
    cache_dir: Annotated[str | None, Operational] = None
    """Folder of the cached features; default $XDG_CACHE_HOME/jaxcap/features, else
    ~/.cache/jaxcap/features. It may be deleted at any time."""


@dataclass(frozen=True)
class RecognitionConfig:
    """Words that are recognised in an image, for the decoder to read and the search to require."""

    words: Annotated[int, UpTo(_MAX_CAPTIONS)] = 0
    """K, the number of words recognised in an image, the most probable ones; 0: none. They come
    from the ImageNet classifier that is published with the encoder, and from a detector that a
    stage with train.objective word_detection trains."""
    detected: Annotated[int, Count(_MAX_WORDS)] = 800
    """Words with a detector: the most frequent content words of the vocabulary."""
    detected_words: Annotated[tuple[str, ...], MaxItems(100_000)] = ()
    """The words with a detector, in place of the most frequent ones. A run records those that it
    chose."""
    class_words: Annotated[tuple[str, ...], MaxItems(1000)] = ()
    """For each class of the classifier, the words that people use for it, separated by spaces;
    default: a table for ImageNet's 1,000 classes. A run records its table."""
    people_share: Annotated[float, Rate] = 0.0
    """Words for people count as recognised only where their probabilities come to at least this
    share of those of all detected words. Captions nearly always begin with somebody, so a decoder
    trusts even a weak sign of people."""
    branch: str | None = None
    """A stage of the encoder, such as block7. Words are recognised from a copy of the published
    encoder from this stage on; earlier stages are shared, and no training stage may change them.
    None: from the encoder's own features, which then must stay frozen."""
    trainable: bool = False
    """Train the copied stages too, with train.objective word_detection and the learning rate of the
    encoder. A penalty keeps the classifier's predictions close to the published ones."""


@dataclass(frozen=True)
class DecoderConfig:
    """The language model on top of the image features."""

    name: str = "attention"
    """attention: Show, Attend and Tell (Xu et al. 2015); lstm: Show and Tell (Vinyals et al. 2015);
    topdown: top-down attention (Anderson et al. 2018); adaptive: adaptive attention with a visual
    sentinel (Lu et al. 2017); aoa: attention on attention (Huang et al. 2019); sca: SCA-CNN (Chen
    et al. 2017); or your own, module:Class."""
    hidden_size: Annotated[int, Count(_MAX_WIDTH)] = 512
    """H, width of the LSTM (of each, for decoders with two)."""
    embedding_size: Annotated[int, Count(_MAX_WIDTH)] = 512
    """E, width of the word embeddings."""
    attention_size: Annotated[int, Count(_MAX_WIDTH)] = 512
    """A, width of the projected features and of the space they are scored in."""
    scoring: Literal["additive", "dot"] = "additive"
    """How attention compares state and features: Bahdanau's MLP, or a scaled dot product, which
    is much faster. aoa always uses the dot product."""
    heads: Annotated[int, Count(1024), _Aoa] = 8
    """aoa: attention heads, which divide A equally."""
    refiner_layers: Annotated[int, UpTo(_MAX_LAYERS), _Aoa] = 2
    """aoa: layers of self-attention over the features before the decoder; 6 in the paper."""
    embedding_dropout: Annotated[float, Rate, PerStage] = 0.0
    """Dropout rate of the word embeddings."""
    feature_dropout: Annotated[float, Rate, PerStage] = 0.0
    """Dropout rate of the image features."""
    output_dropout: Annotated[float, Rate, PerStage] = 0.5
    """Dropout rate before the logits."""
    word_dropout: Annotated[float, Rate, PerStage] = 0.0
    """Share of the recognised words that are withheld in training."""
    image_dropout: Annotated[float, Rate, PerStage] = 0.0
    """Share of the images that are withheld in training, so that the decoder reads recognised words
    alone."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of matrix products. Parameters, sums, softmax, the LSTM's cell, logits and the loss are
    always float32. bfloat16 keeps two to three digits and is for GPU and TPU."""


@dataclass(frozen=True)
class TrainConfig:
    """How the parameters are trained."""

    batch_size: Annotated[int, Count(_MAX_BATCH)] = 32
    """B, images per step, each with all its captions."""
    epochs: Annotated[int, UpTo(_MAX_EPOCHS)] = 10
    """Passes over the training split; 0 only scores. In a run with stages, each stage sets its
    own."""
    start_from: str | None = None
    """A run, or a file of jaxcap export, to fine-tune: training takes its parameters, batch
    statistics and vocabulary, and ignores encoder.weights. It is scored before the first step.
    None: start from scratch."""
    extend_vocabulary: bool = False
    """start_from: add the words that occur data.min_count times or more in the training split."""
    optimizer: Annotated[
        Literal[
            "adamw",
            "adam",
            "nadamw",
            "adabelief",
            "lion",
            "adafactor",
            "rmsprop",
            "adagrad",
            "sgd",
        ],
        PerStage,
    ] = "adamw"
    """The Optax optimizer of that name. Learning rates differ: lion wants less than a third of
    AdamW's, sgd more."""
    learning_rate: Annotated[float, Positive(1000), PerStage] = 1e-3
    """Peak of the schedule, which starts with a linear warm-up."""
    warmup_epochs: Annotated[float, UpTo(_MAX_EPOCHS), PerStage] = 1.0
    """Epochs of linear warm-up."""
    schedule: Annotated[
        Literal["cosine", "linear", "constant", "exponential", "step"], PerStage
    ] = "cosine"
    """After the warm-up: decay to zero at the last step, as a cosine or linearly; stay at the peak;
    or multiply by decay_rate every decay_epochs, gradually (exponential) or at once (step)."""
    decay_rate: Annotated[float, Positive(10), PerStage] = 0.5
    """exponential and step: factor of the learning rate."""
    decay_epochs: Annotated[float, Positive(_MAX_EPOCHS), PerStage] = 3.0
    """exponential and step: epochs between multiplications."""
    momentum: Annotated[float, Rate, PerStage] = 0.9
    """sgd: share of the previous update that is added again."""
    weight_decay: Annotated[float, UpTo(1000), PerStage] = 1e-4
    """Decoupled from the gradient; for matrices only, not for biases and normalisation. adam has
    none."""
    clip_norm: Annotated[float, Positive(1e9), PerStage] = 5.0
    """Global norm that gradients are clipped to."""
    label_smoothing: Annotated[float, Rate, PerStage, _CrossEntropy] = 0.0
    """Probability that is spread over all words of the vocabulary."""
    attention_penalty: Annotated[float, UpTo(1e6), PerStage, _CrossEntropy] = 0.0
    """Weight λ of doubly stochastic attention (Xu et al. 2015, equation 14), which encourages equal
    attention to every position of the image; 1 is usual."""
    sampling: Annotated[
        Literal["none", "linear", "exponential", "inverse_sigmoid"], PerStage, _CrossEntropy
    ] = "none"
    """Scheduled sampling (Bengio et al. 2015): the decoder reads the true word with a probability
    that falls with the step i, else its own word. The schedules, with sampling_k and sampling_c:
    k - c i; k**i; k / (k + exp(i / k)). none: always the true word (teacher forcing)."""
    sampling_k: Annotated[float, UpTo(1e9), PerStage] = 1.0
    """linear: at most 1; exponential: less than 1, such as 0.9999; inverse_sigmoid: at least 1,
    such as 1000."""
    sampling_c: Annotated[float, Fraction, PerStage] = 0.0
    """linear: decrease of the probability per step, such as 0.0001."""
    sampling_floor: Annotated[float, Fraction, PerStage] = 0.0
    """Smallest probability of the true word."""
    sampling_words: Annotated[Literal["sampled", "greedy"], PerStage] = "sampled"
    """The decoder's own words: sampled, or the most likely ones."""
    objective: Annotated[Literal["cross_entropy", "self_critical", "word_detection"], PerStage] = (
        "cross_entropy"
    )
    """Learn the captions of the data set; or maximise the reward of captions that a trained model
    samples (self-critical sequence training, Rennie et al. 2017); or learn which words the captions
    of an image contain, which trains the detector of recognition.words alone. Only cross_entropy
    takes label_smoothing, attention_penalty and scheduled sampling; stages with another objective
    do not inherit them."""
    samples: Annotated[int, Count(_MAX_CAPTIONS), PerStage, _SelfCritical] = 5
    """self_critical: captions sampled per image, at temperature 1, of up to search.max_length
    words."""
    baseline: Annotated[Literal["mean", "greedy"], PerStage, _SelfCritical] = "mean"
    """self_critical: baseline of a caption's reward: the mean of the image's other samples
    (Luo 2020), or the reward of its greedy caption (Rennie et al. 2017)."""
    reward_cider: Annotated[float, UpTo(1e6), PerStage, _SelfCritical] = 1.0
    """self_critical: weight of CIDEr-D, from 0 to 10, in the reward."""
    reward_bleu: Annotated[float, UpTo(1e6), PerStage, _SelfCritical] = 0.0
    """self_critical: weight of BLEU-4, from 0 to 1, in the reward."""
    accumulate: Annotated[int, Count(_MAX_BATCH), PerStage] = 1
    """Gradient accumulation: compute the batch in this many parts, one after the other, to divide
    the memory by this number. The loss is that of the whole batch, but batch normalisation sees one
    part at a time, unless encoder.batch_stats is frozen."""
    remat: Annotated[Literal["none", "encoder", "decoder", "both"], PerStage] = "none"
    """Rematerialisation: recompute the activations of the encoder's stages, of the decoder's steps,
    or of both in the backward pass, to save memory."""
    ema_decay: Annotated[float, Rate] = 0.0
    """Evaluate and keep an exponential moving average of the parameters, over about
    1 / (1 - ema_decay) steps; 0.999 is usual. 0: no average."""
    seed: Annotated[int, _Seed] = 0
    """Seed of initialisation, data order, augmentation and dropout."""
    log_every: Annotated[int, Count(_MAX_STEPS)] = 20
    """Steps between lines of metrics.jsonl."""
    tensorboard: Annotated[bool, Operational] = True
    """Also write TensorBoard files to tensorboard/ of the run: all metrics, and a few images of the
    evaluated split with their captions after each epoch."""
    save_every: Annotated[int, UpTo(_MAX_STEPS), Operational] = 0
    """Steps between checkpoints, in addition to one per epoch; 0: save by time only."""
    save_minutes: Annotated[float, UpTo(1e6), Operational] = 10.0
    """Minutes between checkpoints within an epoch; 0: none."""
    patience: Annotated[int, UpTo(_MAX_EPOCHS), Operational] = 0
    """Stop early after this many epochs without a better evaluation.metric; 0: never."""
    parallel: Annotated[Literal["auto", "jit", "pmap"], Operational] = "auto"
    """How devices share a step: jax.jit over a mesh (also auto), or jax.pmap. Losses and
    parameters are the same."""
    device: Annotated[Literal["auto", "cpu", "gpu", "tpu"], Operational] = "auto"
    """The kind of device to train on. auto: the best that JAX finds, possibly the CPU."""
    coordinator: Annotated[str | None, Operational] = None
    """Several processes: HOST:PORT of process 0; default $JAX_COORDINATOR_ADDRESS. Slurm, Open MPI
    before 5 and TPU pods need none of these three. All processes must see the same --workdir."""
    processes: Annotated[int | None, Count(_MAX_EPOCHS), Operational] = None
    """Number of processes; default $JAX_NUM_PROCESSES."""
    process_id: Annotated[int | None, UpTo(_MAX_EPOCHS), Operational] = None
    """Number of this process, from 0; default $JAX_PROCESS_ID."""
    coordinator_timeout: Annotated[float, Positive(86_400), Operational] = 300.0
    """Seconds that processes wait for each other at the start."""


@dataclass(frozen=True)
class SearchConfig:
    """How captions are decoded."""

    method: Literal["beam", "diverse", "greedy", "sample"] = "beam"
    """Beam search; diverse beam search (Vijayakumar et al. 2016), in groups that avoid each
    other's words; the most likely word each time; or random sampling."""
    beam_size: Annotated[int, Count(_MAX_CAPTIONS), _Beams] = 3
    """beam, diverse: number of beams, of all groups together."""
    n_best: Annotated[int, UpTo(_MAX_CAPTIONS), _Beams] = 0
    """beam, diverse: captions returned per image, best first; 0: one per beam."""
    min_length: Annotated[int, UpTo(_MAX_TOKENS)] = 0
    """Shortest caption, in words."""
    max_length: Annotated[int, Count(_MAX_TOKENS)] = 24
    """Longest caption, in words."""
    length_normalisation: Annotated[Literal["none", "average", "exponent", "gnmt"], _Beams] = (
        "exponent"
    )
    """beam, diverse: score that ranks captions: log p; log p / length; log p / length**a; or
    log p / ((5 + length) / 6)**a (Wu et al. 2016), with a = length_penalty."""
    length_penalty: Annotated[float, UpTo(100), _Beams] = 1.0
    """beam, diverse: exponent a of the length, which counts the end token. Larger values favour
    longer captions; 0 ranks by log p."""
    groups: Annotated[int, Count(_MAX_CAPTIONS), _Diverse] = 3
    """diverse: groups that divide the beams equally."""
    diversity: Annotated[float, UpTo(1e6), _Diverse] = 0.5
    """diverse: penalty on the log probability of a word for each beam of earlier groups that chose
    it at this time step; 0.2 to 0.8 are usual."""
    samples: Annotated[int, Count(_MAX_CAPTIONS), _Sample] = 5
    """sample: captions drawn per image."""
    temperature: Annotated[float, Bounds(1e-3, 1e6), _Sample] = 1.0
    """sample: below 1 favours likely words, above 1 flattens the distribution."""
    top_k: Annotated[int, UpTo(_MAX_WORDS), _Sample] = 0
    """sample: draw from the k most likely words; 0: from all."""
    top_p: Annotated[float, Share, _Sample] = 1.0
    """sample: draw from the fewest words whose probabilities sum to p (Holtzman et al. 2020),
    after temperature and top_k; 1: from all."""
    seed: Annotated[int, _Seed, _Sample] = 0
    """sample: an image and a seed always give the same captions, whatever else is captioned."""
    banned_words: Annotated[tuple[str, ...], MaxItems(10_000), Flag("ban")] = ()
    """Words that no caption may contain."""
    required_words: Annotated[tuple[str, ...], MaxItems(MAX_REQUIRED), Flag("require")] = ()
    """beam: words that every caption must contain, at most 4 (Anderson et al. 2017). Separate
    alternatives with a bar, as in "dog|dogs|puppy". The search takes 2, 4, 8 or 16 times as
    long."""
    guide: Annotated[float, Fraction, _Beam] = 0.0
    """beam: require the things that the model recognises in the image with at least this
    probability, each in any of its forms ("cat", "cats"; Anderson et al. 2017); 0: require none.
    Needs a model that recognises words."""
    guide_words: Annotated[int, Count(MAX_REQUIRED), _Beam] = 2
    """beam: maximum number of recognised things that a caption must name; the most probable ones
    are kept. The search takes up to 2, 4, 8 or 16 times as long. At most 4 requirements are
    possible in total; required_words take precedence."""
    guide_bonus: Annotated[float, UpTo(1e6), _Beam] = 0.0
    """beam: instead of requiring recognised things, add this to the score of a caption in the
    ranking for each one that it names. 0: require them."""
    unrecognised_penalty: Annotated[float, UpTo(1e6)] = 0.0
    """Subtracted from the log probability of each word for a thing that the model has a detector
    for and did not recognise in the image, such as "dog". All words for people count as one
    thing. Words for an animal lose as much again where another animal is recognised with 0.5 or
    more, and it is not."""
    no_repetition: bool = False
    """Never repeat a word immediately."""
    no_repeated_ngram: Annotated[int, UpTo(_MAX_TOKENS)] = 0
    """Never repeat a sequence of this many words; 0: allowed, 3 is usual."""
    no_repeated_content: bool = False
    """Never repeat a word, except English function words such as "a" and "of"."""
    no_function_word_end: bool = False
    """Never end a caption with an English function word, such as "a" or "with"."""


@dataclass(frozen=True)
class EvaluationConfig:
    """How the model is evaluated after every epoch."""

    split: str = "dev"
    """The split that is captioned."""
    metric: str = "CIDEr-D"
    """The score that selects the best checkpoint (higher is better)."""
    batch_size: Annotated[int, Count(_MAX_BATCH)] = 50
    """Images captioned at once."""
    units: Literal["words", "characters"] | None = None
    """Units that scores count: words, as in papers on English, or characters, for scripts without
    spaces between words. None: characters where data.units is characters, else words."""


@dataclass(frozen=True)
class Stage:
    """A part of a training run with its own options: `Stage(3, encoder={"trainable": False})`."""

    epochs: Annotated[int, Count(_MAX_EPOCHS)]
    """Passes over the training split."""
    train: dict[str, Any] = field(default_factory=dict)
    """Options of train that the stage overrides."""
    encoder: dict[str, Any] = field(default_factory=dict)
    """Options of encoder that the stage overrides."""
    decoder: dict[str, Any] = field(default_factory=dict)
    """Options of decoder that the stage overrides: dropout."""
    data: dict[str, Any] = field(default_factory=dict)
    """Options of data that the stage overrides: augmentation and weights."""

    def __post_init__(self) -> None:
        # A stage read from JSON, which has no tuples, must equal the one that was written.
        for options in (self.train, self.encoder, self.decoder, self.data):
            lists = {name: value for name, value in options.items() if isinstance(value, list)}
            options.update({name: tuple(value) for name, value in lists.items()})


@dataclass(frozen=True)
class Config:
    """A whole experiment."""

    data: DataConfig = field(default_factory=DataConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    recognition: RecognitionConfig = field(default_factory=RecognitionConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    stages: Annotated[tuple[Stage, ...], MaxItems(100)] = ()
    """Stages of one run, in order. None: a single stage of train.epochs."""
