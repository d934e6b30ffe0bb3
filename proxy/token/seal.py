"""What a shared store gets to see: names that tell nothing, and tokens that only the right key opens."""

import hmac
import os
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

_NONCE = 12  # bytes; random ones are good for 2^32 tokens a key (NIST SP 800-38D section 8.3)


class Seal:
    """The keys derived from the texts in `token_store_key`: the first seals, each of them opens."""

    def __init__(self, texts: Sequence[str]):
        self._ciphers = [AESGCM(_derived(text, b"token")) for text in texts]
        self._name_keys = [_derived(text, b"name") for text in texts]

    def names(self, identity: bytes) -> list[str]:
        """What a token of this identity is called under each key: an HMAC, since the identity holds a digest
        of the client secret, and a plain hash of that could be guessed at offline."""
        return [hmac.digest(key, identity, "sha256")[:16].hex() for key in self._name_keys]

    def seal(self, identity: bytes, plain: bytes) -> bytes:
        nonce = os.urandom(_NONCE)
        return nonce + self._ciphers[0].encrypt(nonce, plain, identity)

    def open(self, identity: bytes, sealed: bytes) -> bytes | None:
        """What was sealed for this identity; None for anything else."""
        for cipher in self._ciphers:
            try:
                return cipher.decrypt(sealed[:_NONCE], sealed[_NONCE:], identity)
            except (InvalidTag, ValueError):  # ValueError: too short for a nonce
                pass
        return None


def _derived(text: str, use: bytes) -> bytes:
    return HKDF(SHA256(), length=32, salt=None, info=b"fumage-proxy 1 " + use).derive(text.encode())
