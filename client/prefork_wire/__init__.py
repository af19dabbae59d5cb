"""Framing for TCP protocols, sans-IO: bytes in, frames out.

This package owns how frames are told apart and how an address is written. It opens nothing, waits for nothing, and
imports neither sockets nor asyncio nor its sibling packages.
"""

from prefork_wire.address import Address, parse_address
from prefork_wire.delimited import Delimited, Lines
from prefork_wire.errors import FrameError, FrameInvalid, FrameTooLarge, FrameTruncated
from prefork_wire.framing import Cutter, Decoder, Framing, all_encoder, cut_one_by_one, cutter
from prefork_wire.raw import Raw
from prefork_wire.sized import FixedSize, LengthPrefixed, Netstring

__all__ = [
    "Address",
    "Cutter",
    "Decoder",
    "Delimited",
    "FixedSize",
    "FrameError",
    "FrameInvalid",
    "FrameTooLarge",
    "FrameTruncated",
    "Framing",
    "LengthPrefixed",
    "Lines",
    "Netstring",
    "Raw",
    "all_encoder",
    "cut_one_by_one",
    "cutter",
    "parse_address",
]
