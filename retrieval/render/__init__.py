"""Results as a person or a program reads them. Formats and escapes; computes nothing."""
