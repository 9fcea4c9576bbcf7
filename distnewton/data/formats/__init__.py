"""Data formats, one file each; a package adds its own through the entry points ``distnewton.formats``."""
