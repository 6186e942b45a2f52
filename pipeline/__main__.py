"""Says which commands there are."""

import sys

import pipeline

print(pipeline.__doc__)
sys.exit(2 if sys.argv[1:] and sys.argv[1] not in ("--help", "-h") else 0)
