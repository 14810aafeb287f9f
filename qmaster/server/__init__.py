"""Configuration, logging and metrics; builds the parts, serves and shuts down."""
