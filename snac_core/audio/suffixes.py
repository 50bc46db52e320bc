"""The endings of files that are taken for recordings where a folder is searched."""

from __future__ import annotations

AUDIO_SUFFIXES = (
    *(".wav", ".wave", ".rf64", ".w64", ".flac", ".ogg", ".oga", ".opus", ".spx"),
    *(".mp3", ".mp2", ".aif", ".aiff", ".aifc", ".au", ".snd", ".caf", ".sph"),
    # Read with the extra `media` only; without it each is reported as a failure.
    *(".m4a", ".mp4", ".aac", ".3gp", ".amr", ".webm", ".mka", ".wma"),
)
"""In lower case, with the dot."""
