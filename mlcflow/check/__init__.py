"""Knowing that a compiled model is right."""
