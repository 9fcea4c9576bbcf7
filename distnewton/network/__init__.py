"""Dense and convolutional layers on a process grid."""
