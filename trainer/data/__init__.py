"""Recordings on disk, and the segments that training and validation cut from them."""
