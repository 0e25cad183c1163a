"""What scripts/sweep.py imports from here, until it imports it from helper.compare."""
from helper.compare import PICTURES as PICTURES
