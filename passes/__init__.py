"""Built-in passes, one file each; listed in `splitc.pipeline.BUILT_IN`."""
