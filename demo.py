#!/usr/bin/env python
"""Panoptic segmentation of images, folders, videos or a camera, from a checkpoint.

    python demo.py --checkpoint output/demo --input photos/ --output pictures/
    python demo.py --config-file configs/... --input a.jpg b.jpg --output pictures/ \
        --opts MODEL.WEIGHTS model.pth

``python demo.py -h`` lists the arguments.
"""

import sys

from panoptic_lovasz.tools.predict import main

if __name__ == "__main__":
    sys.exit(main())
