"""Effects. Builds an empty module from a cleaned config: allow-listed classes, no network, no code of the model's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from logging import CRITICAL
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import torch
from torch import nn

from tasks.contract import BadInput, Finding, raise_if_of_machine
from tasks.files.archives import refuse
from tasks.files.configs import CONFIG, ModelConfig
from tasks.files.programfile import open_program
from tasks.loading.architectures import ARCHITECTURES, Architecture
from tasks.loading.families import CAUSAL_LM, FAMILIES, MASKED_LM, TEXT_ENCODER, answer_of
from tasks.loading.interpreting import ExportedProgram
from tasks.loading.programkinds import check_inputs, family_of, settings_of
from tasks.loading.weights import DTYPES
from tasks.offers import offered

ENTRY_POINTS = "prunefleet.architectures"
_SPARE_BYTES = 256 << 20
"""Tables that a model computes for itself may take this much, or as much as its weights if that is more."""


def build(config: ModelConfig, dtype: torch.dtype) -> tuple[nn.Module, str, Any]:
    """(module on the meta device, family, config object) of an architecture; raises BadInput for any other."""
    with torch.device("meta"):
        if config.architecture in ARCHITECTURES:
            return _build_own(ARCHITECTURES[config.architecture], config)
        if theirs := offered(ENTRY_POINTS, config.architecture, Architecture, "the model's architecture"):
            return _build_own(theirs, config)
        return _build_from_transformers(config, dtype)


def body_of(config: ModelConfig, module: Any, stored: Iterable[str]) -> ModelConfig | None:
    """The config of a masked language model's body, if that is all that is stored, as of sentence encoders; else None."""
    import transformers

    prefix = f"{module.base_model_prefix}."
    head = {name for name in module.state_dict() if not name.startswith(prefix)}
    if not head.isdisjoint(stored):
        return None
    bodies: Mapping[str, Any] = transformers.models.auto.modeling_auto.MODEL_MAPPING_NAMES
    listed = bodies[config.values["model_type"]]
    body: str = listed if isinstance(listed, str) else listed[0]
    message = (
        f"no head that answers for masked tokens is stored: what counts is the body's embedding, as of {body}"
    )
    told = Finding(kind="no_head", subject=config.architecture, message=message)
    return replace(config, architecture=body, findings=(*config.findings, told))


def build_program(path: Path, config: ModelConfig) -> tuple[nn.Module, str, Any]:
    """(module on the meta device, family, settings) of a program of torch.export; config.json may say more than it does.

    The family is that of the program's input and answer, unless the config names one (`family`). Errors: BadInput.
    """
    program, stored = open_program(path)
    for name, one in stored.items():
        if one.entry.dtype not in DTYPES:
            refuse(path.name, f"its dtype {one.entry.dtype} belongs to a quantized or unusual model", name)
    weights = {
        name: (one.entry.name, one.entry.shape, DTYPES[one.entry.dtype], one.is_parameter)
        for name, one in stored.items()
    }
    with torch.device("meta"):
        module = ExportedProgram(program, weights)
    settings = SimpleNamespace(**{**settings_of(program), **config.values})
    family = config.values.get("family", family_of(program))
    if family not in FAMILIES:
        _refuse(
            f"the program's kind is {family!r:.80}"
            if family
            else "what the program reads and answers is of no known kind",
            f"Let `family` in {CONFIG} name one of {', '.join(sorted(FAMILIES))}.",
        )
    if answer_of(family) == "class" and getattr(settings, "problem_type", None) == "regression":
        family = family.replace("_classifier", "_regressor")
    check_inputs(program, family)
    return module, family, settings


def constants_of(module: nn.Module) -> frozenset[str]:
    """Stored tensors of a program that are no weights; minus infinity is usual in them, as in a mask."""
    if not isinstance(module, ExportedProgram):
        return frozenset()
    return frozenset(name for name, _ in module.named_buffers())


def fill_buffers_(module: Any, weight_bytes: int) -> None:
    """Gives the buffers that no checkpoint holds (rotary frequencies, position ids) their values, in place.

    The weights must still be on the meta device: initializing them then costs and changes nothing.
    """
    names = _unstored_buffers(module)
    taken = sum(buffer.nbytes for _, buffer in names.values())
    if taken > max(_SPARE_BYTES, weight_bytes):
        _refuse(f"the tables it makes the model compute would take {taken} bytes", "Correct its sizes.")
    for name, (owner, buffer) in names.items():
        owner._buffers[name.rpartition(".")[2]] = torch.full_like(buffer, _unset(buffer.dtype), device="cpu")
    if not names:
        return
    if not hasattr(module, "initialize_weights"):
        _refuse(f"the buffer {next(iter(names))} is neither stored nor computed", "Make it persistent.")
    for part in module.modules():
        part.__dict__.pop("_is_hf_initialized", None)
    with _building():
        module.initialize_weights()
    for name, (owner, _) in names.items():
        buffer = owner.get_buffer(name.rpartition(".")[2])
        if buffer.dtype != torch.bool and bool(_is_unset(buffer).all()) and buffer.numel():
            _refuse(f"transformers does not compute the buffer {name}", "This model cannot be run yet.")


def _build_own(architecture: Architecture, config: ModelConfig) -> tuple[nn.Module, str, Any]:
    if architecture.family not in FAMILIES:
        _refuse(
            f"the entry point of {config.architecture[:80]} names the family {architecture.family!r:.80}",
            f"Let it name one of {', '.join(sorted(FAMILIES))}.",
        )
    try:
        module = architecture.build(config.values)
    except BadInput:
        raise
    except Exception as error:  # a config decides what is built, by code that may be a stranger's
        raise_if_of_machine(error)
        why = (
            f"{config.architecture[:80]} cannot be built from it ({type(error).__name__}: {str(error)[:300]})"
        )
        raise _refusal(why, "Give the config what the architecture asks for.") from error
    return module, architecture.family, SimpleNamespace(**config.values)


def _build_from_transformers(config: ModelConfig, dtype: torch.dtype) -> tuple[nn.Module, str, Any]:
    import transformers

    model_type = config.values.get("model_type")
    if not isinstance(model_type, str) or model_type not in transformers.CONFIG_MAPPING:
        _refuse(
            f"{config.architecture[:80]} is none of {', '.join(sorted(ARCHITECTURES))}, no entry point of {ENTRY_POINTS}, "
            f"and transformers knows no model_type {str(model_type)[:60]!r}",
            "Use a known architecture, or install the package that offers this one.",
        )
    architecture = _trained_for(config.architecture, model_type)
    family = _family(architecture, model_type)
    kind = getattr(transformers, architecture, None)
    if not isinstance(kind, type) or not issubclass(kind, transformers.PreTrainedModel):
        _refuse(f"transformers has no model class {config.architecture[:80]}", "Update transformers.")
    attention = "sdpa" if kind._supports_sdpa else "eager"
    with _building():
        values = {key: value for key, value in config.values.items() if key != "model_type"}
        settings = transformers.CONFIG_MAPPING[model_type](**values)
        built: Any = kind
        module = built._from_config(settings, dtype=dtype, attn_implementation=attention)
    return module, _of_regression(family, settings), settings


def _of_regression(family: str, settings: Any) -> str:
    """A classifier by name that transformers trains with squared errors is none."""
    if answer_of(family) != "class":
        return family
    problem = getattr(settings, "problem_type", None)
    is_regression = problem == "regression" or (problem is None and settings.num_labels == 1)
    return family.replace("_classifier", "_regressor") if is_regression else family


def _trained_for(architecture: str, model_type: str) -> str:
    """A class with the heads of several pretraining tasks is the masked language model of its type, if there is one."""
    from transformers.models.auto import modeling_auto

    if architecture != modeling_auto.MODEL_FOR_PRETRAINING_MAPPING_NAMES.get(model_type):
        return architecture
    masked: str = modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES.get(model_type, architecture)
    return masked if architecture.endswith("ForPreTraining") else architecture


def _family(architecture: str, model_type: str) -> str:
    """Only classes that transformers itself lists for this model_type and task."""
    from transformers.models.auto import modeling_auto

    tables: Mapping[str, tuple[Any, tuple[str, ...]]] = {
        CAUSAL_LM: (modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, ("ForCausalLM", "LMHeadModel")),
        MASKED_LM: (modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES, ("ForMaskedLM",)),
        "text_classifier": (
            modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
            ("ForSequenceClassification",),
        ),
        "image_classifier": (
            modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
            ("ForImageClassification",),
        ),
        TEXT_ENCODER: (_text_encoders(modeling_auto), ("Model",)),
        "image_encoder": (modeling_auto.MODEL_FOR_IMAGE_MAPPING_NAMES, ("Model",)),
    }
    for family, (table, endings) in tables.items():
        listed = table.get(model_type, ())
        names = listed if isinstance(listed, tuple) else (listed,)
        if architecture in names and architecture.endswith(endings) and not architecture.startswith("Timm"):
            return family
    known = ", ".join(sorted(ARCHITECTURES))
    return _refuse(
        f"{architecture[:80]} is no causal or masked language model, text or image classifier, text or image encoder of type {model_type[:60]}",
        f"Use one that transformers lists as such, {known}, or an entry point of {ENTRY_POINTS}.",
    )


def _text_encoders(modeling_auto: Any) -> dict[str, Any]:
    """Those listed for text encoding, and the bodies of masked language models without a decoder, many of which are not."""
    bodies = modeling_auto.MODEL_MAPPING_NAMES
    masked = modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    decoding = modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES
    return {
        **{kind: bodies[kind] for kind in masked if kind in bodies and kind not in decoding},
        **modeling_auto.MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES,
    }


@contextmanager
def _building() -> Iterator[None]:
    """No network for as long as transformers works, and its complaints about a config as BadInput alone."""
    from huggingface_hub import constants
    from transformers.utils import logging

    before, talk = constants.HF_HUB_OFFLINE, logging.get_verbosity()
    constants.HF_HUB_OFFLINE = True
    logging.set_verbosity(CRITICAL)
    try:
        yield
    except BadInput:
        raise
    except Exception as error:  # a config decides what transformers does, so any error may be its fault
        raise_if_of_machine(error)
        why = f"transformers cannot build a model from it ({type(error).__name__}: {str(error)[:300]})"
        raise _refusal(why, "Use the config.json of the export.") from error
    finally:
        constants.HF_HUB_OFFLINE = before
        logging.set_verbosity(talk)


def _unstored_buffers(module: nn.Module) -> dict[str, tuple[nn.Module, torch.Tensor]]:
    return {
        f"{path}.{name}" if path else name: (owner, buffer)
        for path, owner in module.named_modules()
        for name, buffer in owner._buffers.items()
        if buffer is not None and name in owner._non_persistent_buffers_set
    }


def _unset(dtype: torch.dtype) -> float | int | bool:
    if dtype == torch.bool:
        return False
    return float("nan") if dtype.is_floating_point else int(torch.iinfo(dtype).max)


def _is_unset(buffer: torch.Tensor) -> torch.Tensor:
    return torch.isnan(buffer) if buffer.is_floating_point() else buffer == _unset(buffer.dtype)


def _refuse(why: str, do: str) -> NoReturn:
    raise _refusal(why, do)


def _refusal(why: str, do: str) -> BadInput:
    return BadInput("the model's config cannot be used", why=why, do=do, file=CONFIG)
