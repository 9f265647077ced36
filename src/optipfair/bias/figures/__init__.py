"""Numbers to figures; knows no models."""
