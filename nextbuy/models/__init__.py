"""What training, serving and monitoring share of a model."""
