"""Every configuration key that the project adds to Detectron2's."""

from __future__ import annotations

from detectron2.config import CfgNode as CN

__all__ = ["add_panoptic_lovasz_config"]

# Keys of earlier versions that have no effect any more. Old configs and published models still
# load: the key is ignored, and one line says so.
_REMOVED: tuple[str, ...] = (
    "OUTPUT.RESULTS_CSV",  # always written: the best metric, sharing and comparing read it
    "MODEL.SEM_SEG_HEAD.LOSS.FUSED",  # the binned loss never upsamples the logits in memory
    "MODEL.PANOPTIC_FPN.REUSE_CPU_MEMORY",  # a model changes nothing of its process any more
)


def add_panoptic_lovasz_config(cfg: CN) -> None:
    """Add the project's keys, with their defaults, to a Detectron2 config (in place)."""
    for key in set(_REMOVED) - cfg.__dict__[CN.DEPRECATED_KEYS]:  # it may be called twice
        cfg.register_deprecated_key(key)
    # Load MODEL.WEIGHTS even if it holds more than tensors, arrays and plain containers. Such a
    # file can run any code: only for files whose author you trust.
    cfg.MODEL.TRUST_WEIGHTS = False
    _add_timm(cfg)
    _add_solver(cfg)
    _add_data(cfg)
    _add_loss(cfg)
    _add_combine(cfg)
    _add_test(cfg)
    _add_output(cfg)


def _add_solver(cfg: CN) -> None:
    # Batches of SOLVER.IMS_PER_BATCH images whose mean gradient makes one step of the optimizer.
    # Iterations, also of the schedule and of evaluation, count steps.
    cfg.SOLVER.ACCUMULATE_STEPS = 1
    # Keep an exponential moving average of the weights, in each checkpoint beside the trained ones.
    # About the last 1 / (1 - DECAY) iterations count.
    cfg.SOLVER.EMA = CN()
    cfg.SOLVER.EMA.ENABLED = False
    cfg.SOLVER.EMA.DECAY = 0.999


def _add_timm(cfg: CN) -> None:
    # The model of MODEL.BACKBONE.NAME "build_timm_fpn_backbone". INPUT.FORMAT, MODEL.PIXEL_MEAN and
    # MODEL.PIXEL_STD follow from it. MODEL.BACKBONE.FREEZE_AT n freezes everything up to its n-th
    # feature map. MODEL.WEIGHTS "imagenet://NAME" starts from its ImageNet weights.
    timm = cfg.MODEL.TIMM = CN()
    # One of timm.list_models().
    timm.NAME = "resnet50"
    # Its feature maps, by stride as Detectron2 names a ResNet's: "res2" has 4, "res5" has 32.
    timm.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    # Batch normalization: "FrozenBN" (constant), "BN" or "SyncBN" (trained).
    timm.NORM = "FrozenBN"
    # Stochastic depth: probability that the last block is skipped in training.
    timm.DROP_PATH_RATE = 0.0
    # Keep it in PyTorch's channels-last memory format: faster for depthwise convolutions on a CPU.
    timm.CHANNELS_LAST = False


def _add_data(cfg: CN) -> None:
    # Data sets in the COCO panoptic format to register, each {name, json, images, panoptic}; paths
    # are relative to $DETECTRON2_DATASETS (./datasets). With `splits`, a list of names, the entry
    # stands for one data set per split, whose name takes the place of "{split}" in every field.
    cfg.DATASETS.PANOPTIC = []
    # Read files through symbolic links that lead out of the folders of images and PNGs.
    cfg.DATASETS.FOLLOW_LINKS = False
    # With INPUT.CROP.ENABLED: try to find a crop of which no semantic class covers more than this
    # fraction; 1.0 takes any.
    cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA = 1.0
    # Crop the resized image, so that SIZE is in its pixels, instead of the original one as
    # Detectron2 does.
    cfg.INPUT.CROP.AFTER_RESIZE = False
    # Random brightness, contrast, saturation and hue, as in SSD.
    cfg.INPUT.COLOR_AUG_SSD = False
    # Large-scale jitter: instead of the resize by MIN_SIZE_TRAIN, scale the image to fit a square
    # of IMAGE_SIZE pixels times a factor drawn from MIN_SCALE..MAX_SCALE, then crop or pad it to
    # that square.
    cfg.INPUT.LSJ = CN()
    cfg.INPUT.LSJ.ENABLED = False
    cfg.INPUT.LSJ.IMAGE_SIZE = 1024
    cfg.INPUT.LSJ.MIN_SCALE = 0.1
    cfg.INPUT.LSJ.MAX_SCALE = 2.0


def _add_loss(cfg: CN) -> None:
    # With ROI_MASK_HEAD.NAME "LovaszMaskHead": factor of the Lovász loss of each region's mask
    # beside its cross-entropy; with 0 it is not computed.
    cfg.MODEL.ROI_MASK_HEAD.LOVASZ_WEIGHT = 0.0
    loss = cfg.MODEL.SEM_SEG_HEAD.LOSS = CN()
    # A name in SEM_SEG_LOSS_REGISTRY: CrossEntropyLovaszLoss, LovaszSoftmaxLoss, CrossEntropyLoss,
    # BalancedCrossEntropyLoss, CrossEntropyJaccardLoss, CrossEntropyDiceLoss,
    # CrossEntropyTverskyLoss, or the name of a loss that you registered. The keys named LOVASZ_*
    # are those of the region term, whichever it is.
    loss.NAME = "CrossEntropyLovaszLoss"
    # Weights of the two terms inside Ls. Ls as a whole is weighted by SEM_SEG_HEAD.LOSS_WEIGHT.
    loss.CE_WEIGHT = 1.0
    loss.LOVASZ_WEIGHT = 1.0
    # Iteration at which the Lovász term joins the cross-entropy ...
    loss.LOVASZ_START_ITER = 0
    # ... and the number of iterations over which its weight then grows linearly from 0.
    loss.LOVASZ_RAMP_ITERS = 0
    # Classes that the Lovász term averages over: "present" (in the ground truth), "all", or a list
    # of class ids. None means "present"; a default of that type would not let a list replace it.
    loss.CLASSES = None
    # Average the Lovász term over images instead of taking the batch as one image.
    loss.PER_IMAGE = False
    # "binned": linear time, within 1/NUM_BINS of the definition, from the head's low-resolution
    # logits; "exact": sorts every class, of upsampled logits, for the Lovász loss only.
    loss.METHOD = "binned"
    loss.NUM_BINS = 1024
    # Jaccard index of the whole distributed batch instead of each process's own share of it.
    loss.GLOBAL_BATCH = False
    # Weight of each class, in both terms; an empty list weighs all alike.
    loss.CLASS_WEIGHTS = []
    # Weights of false positives and of false negatives in CrossEntropyTverskyLoss.
    loss.TVERSKY_ALPHA = 0.3
    loss.TVERSKY_BETA = 0.7
    # Implementation of the fused loss: "auto", "torch", "numba" (CPU) or "triton" (CUDA).
    loss.IMPL = "auto"


def _add_combine(cfg: CN) -> None:
    combine = cfg.MODEL.PANOPTIC_FPN.COMBINE
    # Post-processing and merging: "fast", or "detectron2" for Detectron2's own. Same results.
    combine.IMPL = "fast"
    # Labels of the semantic head that are void: never stuff, their pixels stay unassigned.
    combine.VOID_LABELS = []
    # Where an instance and a stuff class claim the same pixel, the more confident wins: the class
    # if its softmax probability exceeds the instance's score times mask probability by MARGIN.
    combine.CONFIDENCE_AWARE = False
    combine.MARGIN = 0.3


def _add_test(cfg: CN) -> None:
    # Let evaluation also write the panoptic predictions, in COCO's submission format, into
    # OUTPUT_DIR/inference/<data set>.
    cfg.TEST.SAVE_PANOPTIC_PREDICTIONS = False
    # Evaluate, predict with and publish the averaged weights of SOLVER.EMA, not the trained ones.
    cfg.TEST.EMA = False
    # End the training when METRIC has not risen by more than MIN_GAIN, in its own unit, in PATIENCE
    # evaluations (TEST.EVAL_PERIOD) in a row.
    early = cfg.TEST.EARLY_STOPPING = CN()
    early.ENABLED = False
    # With several test sets, that of the first; model_best.pth is then kept by it as well. "" is
    # OUTPUT.BEST_METRIC.
    early.METRIC = ""
    early.PATIENCE = 5
    early.MIN_GAIN = 0.0


def _add_output(cfg: CN) -> None:
    # What training leaves in OUTPUT_DIR besides Detectron2's logs and checkpoints.
    output = cfg.OUTPUT = CN()
    # One readable line of progress instead of Detectron2's list of all losses.
    output.PROGRESS_LINE = True
    # Curves, bars by class and the confusion matrix as PNG, in plots/.
    output.PLOTS = True
    # Validation images that every evaluation draws beside ground truth and prediction (also in
    # TensorBoard), and as many of the best and of the worst. 0 draws none.
    output.NUM_PICTURES = 4
    # Metric by which model_best.pth is kept; with several test sets, that of the first. "": none.
    output.BEST_METRIC = "panoptic_seg/PQ"
    # report.html: everything above, the data and the environment in one file.
    output.REPORT = True
    # When a loss is NaN or infinite, which ends the training, write the batch into non_finite/.
    output.DUMP_NON_FINITE = True
