"""What is known of the arguments of mathematical functions, noted on the operations."""

AT_MOST_ZERO = "mlcflow.at_most_zero"
"""No argument is above 0, up to rounding."""
