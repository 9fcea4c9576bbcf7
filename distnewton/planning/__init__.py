"""Prediction of what a run will cost: messages, memory and seconds of each rank, and the splits that follow."""
