"""STSA visual dubbing: train, evaluate and use Spatial-Temporal Semantic Alignment with PyTorch Lightning."""

__version__ = "0.1.0"
