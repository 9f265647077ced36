"""Bytes and folders on disk; knows no models."""
