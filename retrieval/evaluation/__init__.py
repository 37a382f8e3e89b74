"""Measure retrieval between modalities: metrics, runs, comparisons, reports. Not: training."""
