import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # `from oracle import ...` in the tests beside it
