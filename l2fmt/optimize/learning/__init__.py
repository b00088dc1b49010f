"""Methods that learn from data: rounding with gradients, a differentiable rate, training against the original."""
