"""User embeddings: PinnerFormer (Pancha et al., KDD 2022, arXiv 2205.04507) over the actions that the log holds."""
