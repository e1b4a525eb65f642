import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # `from payloads import ...` in the tests beside it
