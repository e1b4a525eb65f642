"""Panoptic data sets: the COCO panoptic format, registration, mapping and sampling.

The format, its checks, statistics and converters need NumPy alone; ``register``, ``mapper``,
``masks``, ``samplers``, ``augmentation``, ``class_counts``, ``evaluation_sets`` and ``build`` are
Detectron2's side.
"""

from ..lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        ".build": ("build_panoptic_train_loader",),
        ".class_counts": ("set_class_counts",),
        ".classes": ("IGNORE_LABEL", "PanopticClasses"),
        ".coco_panoptic": ("load_coco_panoptic_json",),
        ".mapper": ("PanopticFPNDatasetMapper",),
        ".register": (
            "get_panoptic_classes",
            "get_panoptic_dataset_dicts",
            "register_coco_panoptic",
            "register_from_config",
        ),
        ".samplers": ("EquiBatchSampler", "build_train_sampler"),
        ".shapes": ("make_shapes",),
        ".writer": ("PanopticSample", "write_coco_panoptic"),
    },
)
