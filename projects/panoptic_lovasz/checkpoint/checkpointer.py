"""Detectron2's checkpointer, safe to load from, and safe against what happens while it saves."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import nn
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present
from torch.nn.parallel import DistributedDataParallel

from ..errors import CheckpointError
from ..files import write_atomically, write_text
from .averaged import averaged_weights
from .formats import check_intact, read_weights
from .imagenet import IMAGENET, as_backbone_weights, load_imagenet_backbone

__all__ = ["SafeCheckpointer"]

_ELSEWHERE = (
    "Train in another OUTPUT_DIR, without --resume; with that checkpoint as MODEL.WEIGHTS all "
    "that fits is kept"
)


class SafeCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer with four differences.

    It reads tensors, arrays and plain containers only, from any format of
    :func:`.formats.read_weights`; classifiers' weights among them, see
    :func:`.imagenet.as_backbone_weights`, and "imagenet://NAME", see
    :func:`.imagenet.create_imagenet_model`. It refuses weights of which nothing fits. It writes a
    checkpoint whole or not at all. And :meth:`resume_or_load` falls back to the checkpoint before
    the last one when that is damaged.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        trust_weights: bool = False,
        averaged: bool = False,
        complete: bool = False,
        **checkpointables: Any,
    ):
        """
        Args:
            model, save_dir, **checkpointables: as for ``DetectionCheckpointer``.
            trust_weights: load pickles of any content, which may run code.
            averaged: load the averaged weights of a checkpoint, not the trained ones.
            complete: refuse weights that leave a part of the network as it was.
        """
        super().__init__(model, save_dir, **checkpointables)
        self._trust_weights = trust_weights
        self._averaged = averaged
        self._complete = complete
        self._resuming = False
        self._path = ""

    def save(self, name: str, **kwargs: Any) -> None:
        """Save as Detectron2 does, in a temporary file that then becomes ``name``.pth.

        Raises:
            OSError: if it cannot be written; what was saved before is as it was.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        states = {key: obj.state_dict() for key, obj in self.checkpointables.items()}
        data = {"model": self.model.state_dict(), **states, **kwargs}
        file = Path(self.save_dir, f"{name}.pth")
        self.logger.info(f"Saving checkpoint to {file}")
        try:
            write_atomically(file, lambda f: torch.save(data, f), durable=True)
        except (OSError, RuntimeError) as error:
            # PyTorch hides the system's error behind one of its own about a position in the file.
            cause = error if isinstance(error, OSError) else error.__context__
            if not isinstance(cause, OSError):
                raise
            raise OSError(
                cause.errno,
                f"checkpoint {file} cannot be written: {cause.strerror or cause}; those before it "
                "are as they were. Once that is mended, start again with --resume.",
            ) from error
        self.tag_last_checkpoint(file.name)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Write the name of the last checkpoint, atomically."""
        tag = Path(self.save_dir, "last_checkpoint")
        write_text(tag, last_filename_basename, durable=True)

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Load weights, and what else ``checkpointables`` names (everything for None).

        Args:
            path: a file, a URL that iopath knows, or "imagenet://NAME" for the backbone's ImageNet
                weights; nothing is loaded if it is empty, unless the weights must be complete.

        Raises:
            CheckpointError: if the weights cannot be had, are unsafe or damaged, not those of this
                backbone, or nothing of them fits the network; if they shall be complete, also if
                they are not.
        """
        self._path = path
        if not path and self._complete:
            raise CheckpointError("MODEL.WEIGHTS is empty, expected the weights of a trained model")
        if path.startswith(IMAGENET):
            self.logger.info(f"Loading ImageNet weights {path}")
            checkpoint = {"model": load_imagenet_backbone(self.model, path.removeprefix(IMAGENET))}
            self._log_incompatible_keys(self._load_model(checkpoint))
            return checkpoint
        if path and not isinstance(self.model, DistributedDataParallel):  # there Detectron2 looks
            try:
                local = self.path_manager.get_local_path(path)
            except Exception as error:  # of any type: iopath's handlers raise their own
                raise CheckpointError(f"weights {path} cannot be had: {error}") from error
            if not os.path.isfile(local):
                raise CheckpointError(f"weights {path} do not exist (MODEL.WEIGHTS)")
        return super().load(path, checkpointables)

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """Resume from the last intact checkpoint of ``save_dir``, or load ``path``.

        Raises:
            CheckpointError: if there are checkpoints and all are damaged.
        """
        if not (resume and self.has_checkpoint()):
            return self.load(path, checkpointables=[])
        candidates = self._newest_first()
        for candidate in candidates:
            try:
                check_intact(candidate)
            except CheckpointError as error:
                self.logger.warning(f"{error}; trying the one before it")
                continue
            return self._resume(candidate)
        raise CheckpointError(
            f"none of the checkpoints in {self.save_dir} is intact: {', '.join(candidates)}; "
            "start without --resume, or in another OUTPUT_DIR"
        )

    def _resume(self, file: str) -> dict[str, Any]:
        self._resuming = True
        try:
            return self.load(file)
        except CheckpointError:
            raise
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"cannot resume from {file}: what it holds of the optimizer or the schedule does "
                f"not fit this config: {type(error).__name__}: {error}. {_ELSEWHERE}"
            ) from error
        finally:
            self._resuming = False

    def _load_model(self, checkpoint: Any):
        result = super()._load_model(checkpoint)
        differences = _describe_misfit(result)
        if differences and self._resuming:
            raise CheckpointError(
                f"cannot resume in {self.save_dir}: its last checkpoint is of another network than "
                f"the config describes: {differences}. {_ELSEWHERE}"
            )
        nothing_fits = self.model.state_dict().keys() <= set(result.missing_keys)
        if differences and (self._complete or nothing_fits):
            trained = "; a trained network is asked for, such as OUTPUT_DIR's model_final.pth"
            raise CheckpointError(
                f"weights {self._path} do not belong to the network that the config describes: "
                f"{differences}{trained if self._complete else ''}"
            )
        return result

    def _newest_first(self) -> list[str]:
        last = self.get_checkpoint_file()
        others = [f for f in self.get_all_checkpoint_files() if not _is_best(f)]
        newest = sorted(others, key=os.path.getmtime, reverse=True)
        return [last, *(f for f in newest if f != last)]

    def _load_file(self, filename: str) -> dict[str, Any]:
        loaded = read_weights(filename, trusted=self._trust_weights)
        if not isinstance(loaded, dict):
            raise CheckpointError(
                f"weights {filename} are a {type(loaded).__name__}, expected a dict of tensors"
            )
        if self._averaged:
            return {"model": averaged_weights(loaded, filename)}
        if "model_state" in loaded:  # pycls
            return {"model": loaded["model_state"], "matching_heuristics": True}
        if "model" in loaded:
            return {**loaded, "model": self._own_names(loaded["model"], filename)}
        if "blobs" in loaded:  # Detectron1
            loaded = loaded["blobs"]
        if filename.endswith(".pkl"):
            blobs = {k: v for k, v in loaded.items() if not k.endswith("_momentum")}
            return {"model": blobs, "__author__": "Caffe2", "matching_heuristics": True}
        # PyTorch's ImageNet example and timm put it beside "epoch" and "arch"
        return {"model": self._own_names(loaded.get("state_dict", loaded), filename)}

    def _own_names(self, weights: Any, filename: str) -> dict[str, Any]:
        """Weights by the names of this network, where it has other ones for them."""
        if not isinstance(weights, dict):
            raise CheckpointError(
                f"weights {filename} are a {type(weights).__name__}, expected a dict of tensors"
            )
        for key, value in weights.items():
            if not isinstance(value, (torch.Tensor, np.ndarray)):
                raise CheckpointError(
                    f"weights {filename}: {key!r} is a {type(value).__name__}, expected a tensor"
                )
        consume_prefix_in_state_dict_if_present(weights, "module.")  # of DataParallel
        return as_backbone_weights(self.model, weights, filename)


def _describe_misfit(result: Any) -> str:
    """What of a network its weights leave as it was; empty if nothing.

    Args:
        result: what ``Checkpointer._load_model`` returned.
    """
    wrong = [f"{name} is {file}, expected {net}" for name, file, net in result.incorrect_shapes]
    # a shape that does not fit is listed as missing, too
    missing = set(result.missing_keys) - {name for name, _, _ in result.incorrect_shapes}
    wrong += [f"{name} is missing" for name in sorted(missing)]
    more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
    return "; ".join(wrong[:3]) + more


def _is_best(file: str) -> bool:
    """The best checkpoint is older or newer than the last by chance, and no step of the way."""
    return os.path.basename(file) == "model_best.pth"
