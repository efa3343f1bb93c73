"""Effects. Reads a model's config.json as hostile input: bounded, and rid of every key that could reach outside."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from tasks.contract import BadInput, Finding
from tasks.files.headers import open_regular
from tasks.files.strictjson import parse_object

CONFIG = "config.json"
MAX_CONFIG_BYTES = 4_000_000
"""A table of 21,000 labels takes one million."""
MAX_LABELS = 100_000
MAX_WHOLE = 2**53
MAX_DEPTH = 32
"""Objects and lists inside each other; known configs have five."""

_ALREADY_COMPRESSED = ("quantization_config", "compression_config", "sparsity_config")
"""Reading the last one has executed code in other tools; none of them is ever passed on."""
_REACHES_OUTSIDE = frozenset(
    {
        *("auto_map", "trust_remote_code", "attn_implementation", "experts_implementation", "use_kernels"),
        *("kernel_config", "custom_pipelines", "name_or_path", "device_map", "distributed_config"),
        *("backbone", "use_timm_backbone", "use_pretrained_backbone", "backbone_kwargs", "adapter_config"),
    }
)
_RETOLD = frozenset({"dtype", "torch_dtype", "transformers_version", "architectures", "_name_or_path"})
"""Harmless, common, and known better from elsewhere: dropped without a word."""
_LABELS = frozenset({"id2label", "label2id"})
_COUNT = re.compile(r"(^|_)(n_layers?|\w*layers|num_\w*blocks|\w*experts|depths?|num_\w*groups)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """What config.json says after cleaning."""

    architecture: str
    values: Mapping[str, Any]
    findings: tuple[Finding, ...]


def read_config(directory: Path, tensors: int) -> ModelConfig:
    """Reads and cleans config.json; the number of stored tensors bounds how many layers it may claim."""
    with open_regular(directory / CONFIG) as stream:
        data = stream.read(MAX_CONFIG_BYTES + 1)
    values = parse_object(
        data, what="the model's config", file=CONFIG, max_bytes=MAX_CONFIG_BYTES, may_be_infinite=True
    )
    architectures = values.get("architectures")
    if (
        not isinstance(architectures, list)
        or len(architectures) != 1
        or not isinstance(architectures[0], str)
    ):
        _refuse("`architectures` must name exactly one class", "Name the class that the weights belong to.")
    if _is_deeper(values, MAX_DEPTH):
        _refuse(f"it is nested more than {MAX_DEPTH} levels deep", "Use the config.json of the export.")
    findings: list[Finding] = []
    cleaned = _cleaned(values, "", 4 * tensors + 256, findings)
    return ModelConfig(architecture=architectures[0], values=cleaned, findings=tuple(findings))


def special_tokens(settings: Any) -> frozenset[int]:
    """The tokens that a config gives a meaning of their own, such as ends of texts, of which it may name several."""
    named = [value for key, value in vars(settings).items() if key.endswith("_token_id")]
    tokens = [token for value in named for token in (value if isinstance(value, list) else [value])]
    return frozenset(token for token in tokens if isinstance(token, int))


def _is_deeper(value: Any, depth: int) -> bool:
    level = [value]
    for _ in range(depth):
        nested = [item for item in level if isinstance(item, dict | list)]
        level = [part for item in nested for part in (item.values() if isinstance(item, dict) else item)]
    return any(isinstance(item, dict | list) for item in level)


def _cleaned(values: Mapping[str, Any], where: str, limit: int, findings: list[Finding]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{where}{key}"[:200]
        if not key.isprintable():
            _refuse(f"the key `{name}` holds a character that cannot be printed", "Remove it.")
        if key in _ALREADY_COMPRESSED and value:
            _refuse(f"`{name}` says that it is already quantized or compressed", "Use the original model.")
        if key in _RETOLD or key in _ALREADY_COMPRESSED:
            continue
        if key in _REACHES_OUTSIDE or key.startswith("_"):
            if value not in (None, False, "", {}, []):
                message = "could load code or files from elsewhere; the model is built without it"
                findings.append(Finding(kind="ignored_config_key", subject=name, message=message))
            continue
        if key in _LABELS:
            _check_labels(name, value)
        _check_counts(key, name, value, limit)
        result[key] = _cleaned_value(key, value, name, limit, findings)
    return result


def _cleaned_value(key: str, value: Any, name: str, limit: int, findings: list[Finding]) -> Any:
    if isinstance(value, dict) and key not in _LABELS:
        return _cleaned(value, f"{name}.", limit, findings)
    if isinstance(value, list):
        return [_cleaned_value(key, item, name, limit, findings) for item in value]
    if isinstance(value, int) and abs(value) > MAX_WHOLE:
        _refuse(f"`{name}` is {str(value)[:40]}, a number beyond any model", "Correct it.")
    return value


def _check_labels(name: str, value: Any) -> None:
    if value is None:
        return
    if not isinstance(value, dict) or len(value) > MAX_LABELS:
        _refuse(f"`{name}` is not an object of at most {MAX_LABELS} labels", "Correct it.")
    if not all(isinstance(label, str | int) for label in value.values()):
        _refuse(f"`{name}` holds a label that is neither a text nor a number", "Correct it.")


def _check_counts(key: str, name: str, value: Any, limit: int) -> None:
    numbers = value if isinstance(value, list) else [value]
    if key == "num_labels" and any(isinstance(number, int) and number > MAX_LABELS for number in numbers):
        _refuse(f"`{name}` is {value}, more than {MAX_LABELS}", "Correct it.")
    if not _COUNT.search(key):
        return
    total = sum(number for number in numbers if isinstance(number, int))
    if total > limit:
        _refuse(
            f"`{name}` is {str(value)[:60]} and the weights hold only {limit // 4 - 64} tensors",
            "Correct it.",
        )


def _refuse(why: str, do: str) -> NoReturn:
    raise BadInput("the model's config cannot be used", why=why, do=do, file=CONFIG)
