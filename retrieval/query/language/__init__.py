"""What a user writes, and the expression of terms that it means. Encodes and searches nothing."""
