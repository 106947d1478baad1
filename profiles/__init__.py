"""Shipped device and link profiles: data only."""
