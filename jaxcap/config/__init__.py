"""Experiments as frozen, typed dataclasses that can be loaded, overridden and saved.

A file in `configs/` builds a `Config`, and the command line overrides single fields. The run keeps
the result as `config.json`, which is enough to rebuild the model.
"""

from jaxcap.config.checks import check_heeded, stage_configs, validate
from jaxcap.config.config_files import (
    find_config_file,
    load_config,
    load_config_file,
    save_config,
    shipped_configs,
)
from jaxcap.config.conversion import differences, to_dict
from jaxcap.config.schema import (
    MAX_REQUIRED,
    Config,
    DataConfig,
    DecoderConfig,
    EncoderConfig,
    EvaluationConfig,
    RecognitionConfig,
    SearchConfig,
    Stage,
    TrainConfig,
)
from jaxcap.files.json_data import from_dict

__all__ = [
    "MAX_REQUIRED",
    "Config",
    "DataConfig",
    "DecoderConfig",
    "EncoderConfig",
    "EvaluationConfig",
    "RecognitionConfig",
    "SearchConfig",
    "Stage",
    "TrainConfig",
    "check_heeded",
    "differences",
    "find_config_file",
    "from_dict",
    "load_config",
    "load_config_file",
    "save_config",
    "shipped_configs",
    "stage_configs",
    "to_dict",
    "validate",
]
