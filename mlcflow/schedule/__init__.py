"""Schedules: how one kernel is tiled, fused and vectorized, over the transform dialect."""
