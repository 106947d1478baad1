"""An imaginary vendor's additions to splitc."""
