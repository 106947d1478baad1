"""Built-in backends, one file (or folder) each; listed in `splitc.backend.BUILT_IN`."""
