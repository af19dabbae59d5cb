"""What can be wrong with the bytes of a peer.

The tree::

    FrameError              the byte stream cannot be cut into frames, or a payload cannot be made one
    ├── FrameTooLarge       a frame is longer than the limit
    ├── FrameInvalid        bytes that this framing does not allow
    └── FrameTruncated      the peer's bytes ended in the middle of a frame

A message names the limit or the rule that was broken, never the payload: it may be logged as it is.
"""

from collections.abc import Sequence


class FrameError(Exception):
    """The byte stream cannot be cut into frames, or a payload cannot be made a frame.

    `frames` are the payloads of the whole frames before the bytes that are wrong, where many are cut at once.
    """

    frames: Sequence[bytes] = ()


class FrameTooLarge(FrameError):  # noqa: N818 - it reads as a sentence: raise FrameTooLarge
    """A frame is longer than the framing's limit; said before its body is buffered."""


class FrameInvalid(FrameError):  # noqa: N818 - the same
    """The bytes break a rule of the framing."""


class FrameTruncated(FrameError):  # noqa: N818 - the same
    """The peer's bytes ended in the middle of a frame."""
