"""Data sets, as tensors: small ones from scikit-learn, images from their official addresses.

Downloads are verified against a pinned SHA-256 before they are kept, and kept in one folder:
the ``folder`` argument, else the environment variable ``GDFLOWS_DATA``, else the user's cache.
"""

from gdflows.problems.data.dataset import Dataset
from gdflows.problems.data.files import FILES
from gdflows.problems.data.sets import at_hand, load, text
from gdflows.problems.data.sources import NAMES
from gdflows.problems.data.whitening import whiten

__all__ = ["FILES", "NAMES", "Dataset", "at_hand", "load", "text", "whiten"]
