"""Registration with transformers' Auto classes and pipelines, without importing them first."""

import importlib.abc
import importlib.machinery
import sys
from collections import UserDict
from collections.abc import Callable

from salhub.auto import AutoModelForSaliency
from salhub.entries import MODELS, TASKS, Model, Task
from salhub.manifest import NAMESPACE


class _ImportedWhenAsked(UserDict):
    """Gives the class of a model or a task, which is imported when it is asked for."""

    def __getitem__(self, key):
        found = self.data[key]
        if isinstance(found, Task):
            return found.pipeline_class
        return found.model_class if isinstance(found, Model) else found


def _register_configurations() -> None:
    from transformers import AutoConfig

    for entry in MODELS.values():
        if entry.is_ours:
            AutoConfig.register(entry.model_type, entry.config_class, exist_ok=True)


def _register_models() -> None:
    import transformers

    for entry in MODELS.values():
        if not entry.is_ours:
            continue
        for auto_class in {"AutoModel", entry.auto_class} - {None}:
            mapping = getattr(transformers, auto_class)._model_mapping
            if not isinstance(mapping._extra_content, _ImportedWhenAsked):
                mapping._extra_content = _ImportedWhenAsked(mapping._extra_content)
            mapping._extra_content[entry.config_class] = entry


def _register_quantizers() -> None:
    from transformers.quantizers import auto

    for entry in MODELS.values():
        name = entry.quant_method
        if name is not None and name not in auto.AUTO_QUANTIZER_MAPPING:
            auto.register_quantization_config(name)(entry.quantizer_class.config_class)
            auto.register_quantizer(name)(entry.quantizer_class)


def _register_image_processors() -> None:
    from transformers import AutoImageProcessor

    for entry in MODELS.values():
        if entry.image_processor is not None:
            classes = {"pil": entry.image_processor_class}
            AutoImageProcessor.register(
                entry.config_class, image_processor_classes=classes, exist_ok=True
            )


def _register_pipelines() -> None:
    from transformers.pipelines import PIPELINE_REGISTRY

    for task in TASKS.values():
        if task.is_transformers_own:
            # Whoever uses transformers' pipeline with other models must go on getting it.
            continue
        # Not by `register_pipeline`, which imports the class now, perhaps half-way through its own
        # import, and has `save_pretrained` write a copy of our code that cannot be loaded again.
        entry = {"impl": task, "pt": (AutoModelForSaliency,)}
        models = (one.default_model for one in MODELS.values() if one.task == task.name)
        default = next(filter(None, models), None)
        if default is not None:
            entry["default"] = {"model": (NAMESPACE + default, "main")}
        PIPELINE_REGISTRY.supported_tasks[task.name] = _ImportedWhenAsked(entry)


_REGISTRATIONS: dict[str, Callable[[], None]] = {
    "transformers.models.auto.configuration_auto": _register_configurations,
    "transformers.models.auto.modeling_auto": _register_models,
    # Not after the import of the quantizers, which happens half-way through that of the models.
    "transformers.modeling_utils": _register_quantizers,
    "transformers.models.auto.image_processing_auto": _register_image_processors,
    "transformers.pipelines": _register_pipelines,
}


class _RegisterAfterImport(importlib.abc.MetaPathFinder):
    """Registers our classes right after transformers' own registry has been imported.

    Importing the registries costs seconds, so `import salhub` must not do it; but a plain
    `AutoModel.from_pretrained` after `import salhub` has to know our models.
    """

    def find_spec(self, name, path=None, target=None):
        if name not in _REGISTRATIONS:
            return None
        specification = importlib.machinery.PathFinder.find_spec(name, path, target)
        if specification is None or specification.loader is None:
            return None
        execute, register = specification.loader.exec_module, _REGISTRATIONS[name]

        def execute_and_register(module):
            execute(module)
            register()

        specification.loader.exec_module = execute_and_register
        return specification


def install_registration() -> None:
    """Register with transformers' Auto classes: now where they are imported, else on import."""
    if any(isinstance(finder, _RegisterAfterImport) for finder in sys.meta_path):
        return
    for name, register in _REGISTRATIONS.items():
        if name in sys.modules:
            register()
    sys.meta_path.insert(0, _RegisterAfterImport())
