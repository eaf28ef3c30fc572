"""Checkpoints of any origin: opening them, their scores, predictions and comparison of images with texts."""

# The prompt of a label (Radford et al. 2021, arXiv 2103.00020, section 3.1.4).
DEFAULT_TEMPLATE = "a photo of a {}."
