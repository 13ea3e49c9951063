"""Serving, and in time the model: what stands between features and those who ask for them. Imports flows and feature_repo, never the other way."""
