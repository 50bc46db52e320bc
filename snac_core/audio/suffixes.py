"""Which files of a folder are recordings."""

from __future__ import annotations

AUDIO_SUFFIXES = (
    *(".wav", ".rf64", ".w64", ".flac", ".mp3", ".ogg", ".oga", ".opus"),
    *(".aif", ".aiff", ".aifc", ".au", ".snd", ".caf"),
)
"""How names of recordings end, in lower case: formats that `snac_core.audio.read` reads."""
