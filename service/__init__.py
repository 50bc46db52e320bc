"""HTTP service over snac_core: speech in, tokens out, and back again."""
