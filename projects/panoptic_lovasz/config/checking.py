"""Checks of a config's values before anything is built from them."""

from __future__ import annotations

from detectron2.config import CfgNode

from ..errors import ConfigError

__all__ = ["check_proposals"]


def check_proposals(cfg: CfgNode) -> None:
    """Refuse precomputed proposals, which Detectron2 unpickles, unless the user trusts them.

    Raises:
        ConfigError: for MODEL.LOAD_PROPOSALS without MODEL.TRUST_WEIGHTS.
    """
    if cfg.MODEL.LOAD_PROPOSALS and not cfg.MODEL.TRUST_WEIGHTS:
        raise ConfigError(
            "MODEL.LOAD_PROPOSALS is True, expected False: the files in DATASETS.PROPOSAL_FILES_* "
            "are pickles, which can run code. If you trust their authors, set MODEL.TRUST_WEIGHTS "
            "True"
        )
