"""Operations on the whole data folder: backup and erasure."""
