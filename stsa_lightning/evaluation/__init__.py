"""The reference evaluation: any metric, of a checkpoint or of any system's videos, into one report."""
