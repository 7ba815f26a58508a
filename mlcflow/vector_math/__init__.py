"""Mathematical functions, written out in the arithmetic that vectors have."""
