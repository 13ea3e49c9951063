"""The model and its serving: what stands between features and those who ask for them. Imports flows and feature_repo, never the other way."""

import os

# MKL adds up the rows of a product in an order of their place or address, unless it is told before its first product that results must be
# reproducible; on processors without AVX-512 that is seen in narrow layers of odd widths. A row's score must not depend on where it lies.
# It costs nothing measurable.
os.environ.setdefault("MKL_CBWR", "AUTO")
