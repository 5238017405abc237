"""The clocks: frames, samples and feature steps a second."""

SAMPLE_RATE_HZ = 16_000
SAMPLES_PER_FRAME = 640  # at 25 frames/s
