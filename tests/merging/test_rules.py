import dataclasses

import pytest
from detectron2.config import get_cfg

from panoptic_lovasz import add_panoptic_lovasz_config
from panoptic_lovasz.merging import CombineRules


@pytest.fixture
def cfg():
    cfg = get_cfg()
    add_panoptic_lovasz_config(cfg)
    return cfg


def test_the_rules_of_the_default_config_are_the_default_rules(cfg):
    assert CombineRules.from_config(cfg) == CombineRules()


def test_every_rule_is_a_key_of_the_config(cfg):
    values = {
        "OVERLAP_THRESH": 0.3,
        "STUFF_AREA_LIMIT": 7,
        "INSTANCES_CONFIDENCE_THRESH": 0.2,
        "VOID_LABELS": [2, 5],
        "CONFIDENCE_AWARE": True,
        "MARGIN": 0.1,
    }
    assert len(values) == len(dataclasses.fields(CombineRules))
    cfg.MODEL.PANOPTIC_FPN.COMBINE.merge_from_other_cfg(type(cfg)(values))
    assert CombineRules.from_config(cfg) == CombineRules(0.3, 7, 0.2, (2, 5), True, 0.1)


@pytest.mark.parametrize(
    ("rules", "known"),
    [({"overlap_thresh": 0.1}, True), ({"void_labels": (1,)}, False),
     ({"confidence_aware": True}, False)],
)  # fmt: skip
def test_detectron2_knows_the_thresholds_alone(rules, known):
    assert CombineRules(**rules).are_detectron2s is known
