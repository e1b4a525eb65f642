"""Print what the model zoo has: ``python -m panoptic_lovasz.model_zoo [--zoo FOLDER|URL]``."""

import sys

from ..tools.list_models import main

if __name__ == "__main__":
    sys.exit(main())
