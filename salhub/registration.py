"""Registration with transformers' Auto classes and pipelines, without importing them first."""

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable

from salhub.auto import AutoModelForSaliency
from salhub.entries import BACKBONES, METHODS, TASKS


def _register_configurations() -> None:
    from transformers import AutoConfig

    for entry in (*METHODS.values(), *BACKBONES):
        AutoConfig.register(entry.model_type, entry.config_class, exist_ok=True)


def _register_models() -> None:
    import transformers

    for entry in (*METHODS.values(), *BACKBONES):
        transformers.AutoModel.register(entry.config_class, entry.model_class, exist_ok=True)
    for entry in (*METHODS.values(), *BACKBONES):
        if entry.auto_class is None:
            continue
        auto_class = getattr(transformers, entry.auto_class)
        auto_class.register(entry.config_class, entry.model_class, exist_ok=True)


def _register_image_processors() -> None:
    from transformers import AutoImageProcessor

    for entry in BACKBONES:
        if entry.image_processor is None:
            continue
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
        cls = task.pipeline_class
        PIPELINE_REGISTRY.register_pipeline(
            task.name, pipeline_class=cls, pt_model=AutoModelForSaliency, type=cls.input_type
        )
        # With it `save_pretrained` writes a copy of our code, which transformers cannot load again.
        del cls._registered_impl


_REGISTRATIONS: dict[str, Callable[[], None]] = {
    "transformers.models.auto.configuration_auto": _register_configurations,
    "transformers.models.auto.modeling_auto": _register_models,
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
