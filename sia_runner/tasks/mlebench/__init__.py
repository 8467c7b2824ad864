"""Kaggle competitions in the layout that MLE-bench prepares."""
