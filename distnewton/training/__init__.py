"""The outer loop and what surrounds it: objective, records, model, run folder, session."""
