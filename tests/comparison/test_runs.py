import pytest
from detectron2.config import get_cfg

from panoptic_lovasz.comparison.runs import plan_runs
from panoptic_lovasz.config import add_panoptic_lovasz_config
from panoptic_lovasz.errors import ConfigError


def test_runs_without_a_test_set_are_not_begun(tmp_path):
    cfg = get_cfg()
    add_panoptic_lovasz_config(cfg)
    cfg.DATASETS.TEST = ()
    with pytest.raises(ConfigError, match=r"DATASETS\.TEST is empty"):
        plan_runs(cfg, {"mine": {}}, [1], tmp_path)


@pytest.mark.parametrize("key", ["SOLVER.NOPE", "NOPE.X", "SOLVER.MAX_ITER.X", "SOLVER"])
def test_a_loss_that_changes_a_key_which_is_no_option_is_an_error_that_names_it(key, tmp_path):
    cfg = get_cfg()
    add_panoptic_lovasz_config(cfg)
    cfg.DATASETS.TEST = ("my_val",)
    with pytest.raises(ConfigError, match=rf"loss 'mine' \({key}\): "):
        plan_runs(cfg, {"mine": {key: 1}}, [1], tmp_path)
