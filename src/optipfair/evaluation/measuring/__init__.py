"""Figures as functions of items; knows no models."""
