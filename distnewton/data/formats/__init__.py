"""Data formats, one module each; packages add their own through the entry points ``distnewton.formats``."""
