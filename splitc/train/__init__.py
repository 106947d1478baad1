"""Training as a small library: recipes as data, losses, a loop that resumes, and its recorders.

`fit` needs the extra ``splitc[torch]``; reading recipes does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from splitc.train.recipes import Recipe, recipe
from splitc.train.recorder import SILENT, FolderRecorder, Recorder, Silent

_WHERE = {
    "fit": "splitc.train.loop",
    "Augment": "splitc.train.loop",
    "Outcome": "splitc.train.loop",
    "Loss": "splitc.train.losses",
    "cross_entropy": "splitc.train.losses",
    "distill": "splitc.train.losses",
    "match": "splitc.train.losses",
}

if TYPE_CHECKING:
    from splitc.train.loop import Augment, Outcome, fit
    from splitc.train.losses import Loss, cross_entropy, distill, match

__all__ = [
    "SILENT",
    "Augment",
    "FolderRecorder",
    "Loss",
    "Outcome",
    "Recipe",
    "Recorder",
    "Silent",
    "cross_entropy",
    "distill",
    "fit",
    "match",
    "recipe",
]


def __getattr__(name: str) -> object:
    if name not in _WHERE:
        raise AttributeError(f"module 'splitc.train' has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)
