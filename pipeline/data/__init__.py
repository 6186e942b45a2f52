"""Datasets, and the order in which training sees their examples."""
