"""A folder with devices/ and links/, named by the entry point."""
