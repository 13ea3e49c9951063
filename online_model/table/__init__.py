"""The embedding table of an entity: IDs get rows as they are seen, rows learn, and rows whose IDs stay away go again.

A row is a function of the sequence of batches that were applied, never of where it lies, how many threads there are, or when it was saved and
loaded. No torch in here.
"""

from online_model.table.checkpoint import load, save
from online_model.table.config import Spill, TableConfig
from online_model.table.errors import GradientError, TableError, TableFileError
from online_model.table.table import EmbeddingTable

__all__ = ["EmbeddingTable", "GradientError", "Spill", "TableConfig", "TableError", "TableFileError", "load", "save"]
