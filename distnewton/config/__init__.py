"""The configuration of a run: its sections, the options of each method, and how the whole tree is read and written."""

from distnewton.config.method import MethodConfig, StageConfig, StageOptions, regularization_constant
from distnewton.config.sections import DataConfig, NetworkConfig, PartitionConfig, RunConfig
from distnewton.config.tree import (
    Config,
    apply_settings,
    choices_of,
    choose_direction,
    is_setting,
    load_config,
    make_config,
    parse_value,
    read_settings,
    setting_names,
    settings_of,
    to_toml,
)

__all__ = [
    "Config",
    "DataConfig",
    "MethodConfig",
    "NetworkConfig",
    "PartitionConfig",
    "RunConfig",
    "StageConfig",
    "StageOptions",
    "apply_settings",
    "choices_of",
    "choose_direction",
    "is_setting",
    "load_config",
    "make_config",
    "parse_value",
    "read_settings",
    "regularization_constant",
    "setting_names",
    "settings_of",
    "to_toml",
]
