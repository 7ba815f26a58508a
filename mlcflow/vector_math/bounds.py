"""What is known of arguments and results of functions, noted on the operations."""

AT_MOST_ZERO = "mlcflow.at_most_zero"
"""No argument is above 0, up to rounding."""

ANY_IF_NAN = "mlcflow.any_if_nan"
"""The result may be any number if an operand is NaN: it goes into what is NaN then anyway."""
