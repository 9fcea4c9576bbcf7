"""The training method: objective, Newton steps, stages, and the loop over them."""
