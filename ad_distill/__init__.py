"""Learning histories of RL algorithms, in two formats, distilled into transformers that learn in context.

What most programs need can be imported from here, by name; each is loaded when it is first used.
"""
__version__ = "0.1.0"

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what editors and type checkers see
    from .data.dataset import Leap, Ranked, Scattered, Sorted, Strided, TrajectoryDataset, Windows
    from .data.store import Store
    from .evaluation.play import evaluate, play
    from .evaluation.statistics import summarize
    from .language.codecs import ParseError
    from .language.serializer import Serializer, make_serializer
    from .logs.core import Reader
    from .logs.importing import import_log
    from .models.lm import LMModel
    from .models.loading import load_model
    from .models.rl import RLModel
    from .registry import UserError
    from .sources.core import Source, generate, make_source
    from .tasks.core import Agent, Task, make_task
    from .train import distill
    from .trajectory import History, Spaces, Trajectory, Transition

_HOME = {  # module -> the names that it gives to the front door
    "registry": ("UserError",),
    "trajectory": ("History", "Spaces", "Trajectory", "Transition"),
    "language.codecs": ("ParseError",),
    "language.serializer": ("Serializer", "make_serializer"),
    "data.store": ("Store",),
    "data.dataset": ("Leap", "Ranked", "Scattered", "Sorted", "Strided", "TrajectoryDataset", "Windows"),
    "tasks.core": ("Agent", "Task", "make_task"),
    "sources.core": ("Source", "generate", "make_source"),
    "models.rl": ("RLModel",),
    "models.lm": ("LMModel",),
    "models.loading": ("load_model",),
    "evaluation.play": ("evaluate", "play"),
    "evaluation.statistics": ("summarize",),
    "logs.core": ("Reader",),
    "logs.importing": ("import_log",),
    "train": ("distill",),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}
__all__ = sorted(_MODULE_OF)


def __getattr__(name: str):
    "Import a name of the front door when it is first asked for (PEP 562)."
    if name not in _MODULE_OF: raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__(): return sorted({*globals(), *__all__})
