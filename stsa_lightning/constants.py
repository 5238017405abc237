"""The clocks: frames, samples and feature steps a second."""

FPS = 25  # the networks' clock, and that of prepared clips and of metrics, whatever a video's rate
SAMPLE_RATE_HZ = 16_000
SAMPLES_PER_FRAME = SAMPLE_RATE_HZ // FPS
