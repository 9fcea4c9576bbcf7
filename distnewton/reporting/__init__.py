"""What a run shows, during and after."""
