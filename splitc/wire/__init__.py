"""What the wire carries: codecs (tensor ↔ bytes) and frames (tensors ↔ one message)."""
