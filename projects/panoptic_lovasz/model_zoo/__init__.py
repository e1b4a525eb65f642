"""Models by name, as Detectron2's ``model_zoo`` has them.

    from panoptic_lovasz import model_zoo

    model_zoo.list()
    cfg = model_zoo.get_config("CamVid-PanopticSegmentation/panoptic_lovasz_R_50")
    model = model_zoo.get("my_model", zoo="https://example.org/zoo/index.json")

``python -m panoptic_lovasz.model_zoo`` prints a table.
"""

from ..lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        ".hub": ("fetch_from_hub", "save_hub_folder"),
        ".index": ("Entry", "add_to_index", "read_index"),
        ".publishing": ("PublishedFiles", "publish", "read_metrics"),
        ".zoo": ("find_model", "get", "get_checkpoint", "get_config", "list"),
    },
)
