"""Audio features by name."""

from __future__ import annotations

from typing import Any, get_args

from stsa_lightning.features.base import AudioFeatures, FeatureKind
from stsa_lightning.features.spectral import MFCC, LogMel
from stsa_lightning.utils.errors import UserError, check_choice


def audio_features(kind: FeatureKind, **options: Any) -> AudioFeatures:
    """The extractor of one kind.

    Args:
        kind: "logmel" (80-d), "mfcc" (13-d), "moonshine" (368-d, comes with the package) or "wav2vec2" (768-d, the
            paper's, downloaded).
        options: of wav2vec2 alone, see `stsa_lightning.features.wav2vec2.Wav2Vec2`.

    Raises:
        UserError: an unknown kind, or options that it does not take.
        MissingPackageError: the kind's package is missing (the message says how to install it).
    """
    check_choice("features", kind, get_args(FeatureKind))
    if kind == "wav2vec2":
        from stsa_lightning.features.wav2vec2 import Wav2Vec2

        return Wav2Vec2(**options)
    if options:
        raise UserError(f"{kind} features take no options, got {', '.join(options)}")
    if kind == "moonshine":
        from stsa_lightning.features.moonshine import Moonshine

        return Moonshine()
    return LogMel() if kind == "logmel" else MFCC()
