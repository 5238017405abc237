"""An experiment and its variants, trained and compared."""

METRICS = ("psnr", "ssim", "lmd", "lmv", "lip_aperture", "jitter")  # what variants are compared by, if nobody says
