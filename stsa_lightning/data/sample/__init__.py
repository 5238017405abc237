"""The embedded sample: talking heads rendered from one bundled portrait, moved by synthetic speech."""

from stsa_lightning.data.sample.render import ClipSettings, SampleClip, render_clip, render_sample, sample_truth

__all__ = ["ClipSettings", "SampleClip", "render_clip", "render_sample", "sample_truth"]
