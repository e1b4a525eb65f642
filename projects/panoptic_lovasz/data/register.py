"""Register data sets in the COCO panoptic format, from Python or from ``cfg.DATASETS.PANOPTIC``."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.file_io import PathManager

from ..errors import ConfigError, DatasetError
from .categories import read_categories
from .classes import PanopticClasses
from .coco_panoptic import load_coco_panoptic_json

__all__ = [
    "entry_data_sets",
    "get_panoptic_classes",
    "get_panoptic_dataset_dicts",
    "known_names",
    "load_registered",
    "missing_json_message",
    "register_coco_panoptic",
    "register_from_config",
    "require_instances",
]

logger = logging.getLogger(__name__)

EVALUATOR_TYPE = "panoptic_lovasz"
_ENTRY_FIELDS = ("name", "json", "images", "panoptic")


def register_coco_panoptic(
    name: str,
    json: str | os.PathLike,
    images: str | os.PathLike,
    panoptic: str | os.PathLike,
    *,
    follow_links: bool = False,
) -> None:
    """Register a data set in the COCO panoptic format under ``name``.

    Registering the same files again reads their categories anew: a JSON that was mended in between,
    or has come since, may have others.

    If the JSON is not there, the name is registered all the same, without classes, so that a
    model can be built and used where the data is not; loading the data set then raises.

    Args:
        name: the name for DATASETS.TRAIN and DATASETS.TEST.
        json: the panoptic JSON.
        images: folder of the images.
        panoptic: folder of the id PNGs.
            Relative paths start at $DETECTRON2_DATASETS, by default ./datasets, as those of
            Detectron2's built-in data sets do.
        follow_links: let symbolic links lead out of the two folders.

    Raises:
        ConfigError: if the name is taken by another data set.
        DatasetError: if the JSON is not one.
    """
    paths = {
        "panoptic_json": _locate(json),
        "image_root": _locate(images),
        "panoptic_root": _locate(panoptic),
    }
    if name in DatasetCatalog.list():
        metadata = MetadataCatalog.get(name)
        registered = {field: metadata.get(field) for field in paths}
        if registered != paths:
            raise ConfigError(
                f"the data set name '{name}' is taken: it is registered with {registered}, "
                f"not {paths}; choose another name"
            )
    classes = _classes_of(paths["panoptic_json"])
    if name in DatasetCatalog.list():
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    load = functools.partial(_load, name, **paths, classes=classes, follow_links=follow_links)
    DatasetCatalog.register(name, load)
    MetadataCatalog.get(name).set(
        **paths,
        evaluator_type=EVALUATOR_TYPE,
        **(classes.metadata() if classes else {}),
    )


def register_from_config(cfg: CfgNode) -> None:
    """Register every entry of ``cfg.DATASETS.PANOPTIC``.

    Raises:
        ConfigError: if an entry lacks a field, has an unknown one, or its name is taken.
    """
    for n, entry in enumerate(cfg.DATASETS.PANOPTIC):
        for data_set in entry_data_sets(entry, f"DATASETS.PANOPTIC[{n}]"):
            register_coco_panoptic(**data_set, follow_links=cfg.DATASETS.FOLLOW_LINKS)


def entry_data_sets(entry: Any, where: str) -> list[dict[str, str]]:
    """The data sets of an entry of ``cfg.DATASETS.PANOPTIC``, with the fields {name, json, images,
    panoptic} each; with "splits" one per split, which is put in the place of {split}.

    Raises:
        ConfigError: if a field is missing, unknown or not of its type; starts with ``where``.
    """
    if not isinstance(entry, dict):
        raise ConfigError(f"{where} is {entry!r}, expected the fields {_ENTRY_FIELDS}")
    fields = {k: v for k, v in entry.items() if k != "splits"}
    unknown, missing = fields.keys() - set(_ENTRY_FIELDS), set(_ENTRY_FIELDS) - fields.keys()
    if unknown or missing:
        raise ConfigError(
            f"{where} has the fields {sorted(entry)}, expected {_ENTRY_FIELDS} and optionally "
            "'splits'"
        )
    for field, value in fields.items():
        if not isinstance(value, str) or not value:
            raise ConfigError(f"{where}: {field} is {value!r}, expected a non-empty string")
    if "splits" not in entry:
        return [fields]
    splits = entry["splits"]
    is_list = isinstance(splits, (list, tuple)) and len(splits) > 0
    if not is_list or not all(isinstance(s, str) for s in splits):
        raise ConfigError(f"{where}: splits is {splits!r}, expected a list of names")
    if "{split}" not in fields["name"]:
        raise ConfigError(f"{where}: with 'splits' the name {fields['name']!r} needs {{split}}")
    return [{k: v.replace("{split}", split) for k, v in fields.items()} for split in splits]


def get_panoptic_classes(names: Sequence[str]) -> PanopticClasses:
    """Return the classes that all the named registered data sets share.

    Raises:
        DatasetError: if a data set is not registered or has no classes.
        ConfigError: if two of them differ in their classes.
    """
    classes = []
    for name in names:
        if name not in DatasetCatalog.list():
            raise DatasetError(f"data set '{name}' is not registered{known_names()}")
        classes.append(PanopticClasses.from_metadata(MetadataCatalog.get(name)))
    for name, other in zip(names[1:], classes[1:], strict=True):
        for field in ("thing_classes", "stuff_classes", "thing_segment_ids", "stuff_segment_ids"):
            if getattr(other, field) != getattr(classes[0], field):
                raise ConfigError(
                    f"the data sets '{names[0]}' and '{name}' differ in {field}: "
                    f"{list(getattr(classes[0], field))} and {list(getattr(other, field))}"
                )
    return classes[0]


def get_panoptic_dataset_dicts(
    names: str | Sequence[str], filter_empty: bool = False
) -> list[dict[str, Any]]:
    """Load and join the dataset dicts of registered panoptic data sets.

    Args:
        names: a name or several, such as cfg.DATASETS.TRAIN.
        filter_empty: leave out the images without a thing that is not a crowd
            (DATALOADER.FILTER_EMPTY_ANNOTATIONS).

    Raises:
        DatasetError: if a data set is not registered, cannot be loaded, or no image is left.
        ConfigError: if two of them differ in their classes.
    """
    names = [names] if isinstance(names, str) else list(names)
    if not names:
        raise ConfigError("no data set is named: DATASETS.TRAIN is empty")
    dicts = []
    for name in names:
        loaded = load_registered(name)
        _check_dicts(name, loaded)
        dicts += loaded
    classes = get_panoptic_classes(names)
    if not dicts:
        raise DatasetError(f"no image is in {', '.join(names)}")
    if filter_empty:
        require_instances(names, dicts)
        kept = [d for d in dicts if _has_instance(d, classes)]
        logger.info(f"Left out {len(dicts) - len(kept)} of {len(dicts)} images without a thing.")
        dicts = kept
    return dicts


def require_instances(names: Sequence[str], dicts: Sequence[dict[str, Any]]) -> None:
    """Raise DatasetError if no image has an instance, so that half of the network learns nothing.

    Args:
        names: of the data sets.
        dicts: theirs.
    """
    classes = get_panoptic_classes(names)
    if any(_has_instance(d, classes) for d in dicts):
        return
    crowds = sum(classes.segment_class(s)[0] for d in dicts for s in d["segments_info"])
    hint = (
        f": all {crowds} segments of things are crowds (iscrowd 1), which are not trained. Where "
        "they are single objects, as brush masks of CVAT are, convert with --crowds-as-objects"
        if crowds
        else ": no segment is a thing"
    )
    raise DatasetError(f"{', '.join(names)}: no image has an instance to learn from{hint}")


def load_registered(name: str) -> list[dict[str, Any]]:
    """Dataset dicts of a registered data set of any kind.

    Raises:
        DatasetError: if it is not registered, its metadata lack something, or its loader fails.
    """
    if name not in DatasetCatalog.list():
        raise DatasetError(f"data set '{name}' is not registered{known_names()}")
    metadata = MetadataCatalog.get(name)
    if metadata.get("evaluator_type") != EVALUATOR_TYPE and metadata.get("panoptic_root"):
        PanopticClasses.from_metadata(metadata)  # says more than the KeyErrors of its loader
    try:
        return list(DatasetCatalog.get(name))
    except DatasetError:
        raise
    except Exception as error:  # Detectron2's own loaders raise errors of many types
        message = f"{type(error).__name__}: {error}"
        raise DatasetError(f"data set '{name}' cannot be loaded: {message}") from error


def _check_dicts(name: str, dicts: Sequence[dict[str, Any]]) -> None:
    if any("segments_info" not in d for d in dicts):
        plain = name.removesuffix("_separated")
        known = plain != name and plain in DatasetCatalog
        advice = "; panoptic_lovasz.register_coco_panoptic registers data that is"
        raise DatasetError(
            f"data set '{name}' has no segments_info: it is not in the panoptic format"
            + (f"; '{plain}' is" if known else advice)
        )
    for n, record in enumerate(dicts):
        for field in ("file_name", "image_id"):
            if field not in record:
                raise DatasetError(f"data set '{name}': its record {n} has no '{field}'")


def _has_instance(dataset_dict: dict[str, Any], classes: PanopticClasses) -> bool:
    return any(
        not segment.get("iscrowd", 0) and classes.segment_class(segment)[0]
        for segment in dataset_dict["segments_info"]
    )


def _load(
    name: str,
    panoptic_json: str,
    image_root: str,
    panoptic_root: str,
    classes: PanopticClasses | None,
    follow_links: bool,
) -> list[dict]:
    if not PathManager.isfile(panoptic_json):
        raise DatasetError(missing_json_message(name, panoptic_json))
    if classes != _classes_of(panoptic_json):
        raise DatasetError(
            f"data set '{name}': the categories of {panoptic_json} have changed since it was "
            "registered; register it again"
        )
    return load_coco_panoptic_json(
        panoptic_json, image_root, panoptic_root, classes, follow_links=follow_links
    )


def missing_json_message(name: str, panoptic_json: str) -> str:
    """What to say of a data set whose JSON is not there."""
    return (
        f"data set '{name}': the panoptic JSON {os.path.abspath(panoptic_json)} does not exist "
        f"(relative paths start at $DETECTRON2_DATASETS, here {os.path.abspath(_datasets_root())})"
    )


def _datasets_root() -> str:
    return os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets"))


def _locate(path: str | os.PathLike) -> str:
    path = os.path.expanduser(os.fspath(path))
    return path if "://" in path else os.path.join(_datasets_root(), path)


def _classes_of(json_file: str) -> PanopticClasses | None:
    """Classes of a JSON, None if it is not there."""
    if not PathManager.isfile(json_file):
        return None
    return PanopticClasses.from_categories(read_categories(json_file), json_file)


def known_names() -> str:
    """The end of a message about a name that is not registered: which ones are."""
    own = [n for n in DatasetCatalog.list() if MetadataCatalog.get(n).get("panoptic_root")]
    return f"; registered panoptic data sets are: {', '.join(own)}" if own else ""
