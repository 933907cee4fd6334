"""One experiment, written down: frozen, typed dataclasses that load, override and save.

A file in `configs/` builds a `Config`; the command line overrides single fields of it; the
run keeps the resolved whole as `config.json`, from which alone the model is built again.
"""

from jaxcap.config.checks import check_heeded, stage_configs, validate
from jaxcap.config.config_files import load_config, load_config_file, save_config
from jaxcap.config.conversion import differences, from_dict, to_dict
from jaxcap.config.sections import (
    Config,
    DataConfig,
    DecoderConfig,
    EncoderConfig,
    EvaluationConfig,
    SearchConfig,
    Stage,
    TrainConfig,
)

__all__ = [
    "Config",
    "DataConfig",
    "DecoderConfig",
    "EncoderConfig",
    "EvaluationConfig",
    "SearchConfig",
    "Stage",
    "TrainConfig",
    "check_heeded",
    "differences",
    "from_dict",
    "load_config",
    "load_config_file",
    "save_config",
    "stage_configs",
    "to_dict",
    "validate",
]
