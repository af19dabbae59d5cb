r"""A mail server: aiosmtpd's own SMTP class, unchanged, over as many processes as you like.

Run it, then talk to it:

    pip install aiosmtpd
    prefork serve smtp:smtp --adapter protocol --chdir examples --bind 127.0.0.1:8025 --workers 4 --idle-timeout 300
    printf 'Subject: hello\r\n\r\nDear Bob\r\n' > mail.txt
    curl smtp://127.0.0.1:8025 --mail-from ada@example.org --mail-rcpt bob@example.org --upload-file mail.txt

`SMTP` is an `asyncio.Protocol`, and `smtp` a factory: it makes one for each connection. A factory is a function like
any other, so --adapter says what it is; the class itself, or `functools.partial(SMTP, ...)`, would be recognised.
Each mail goes into the Maildir `mail`, which is made for many processes to write to, and is there before the client
reads "250 OK".

Why --idle-timeout 300: RFC 5321, section 4.5.3.2.7, wants a server to wait five minutes for the next command. On a
reload a connection is ended once it has been silent for 5 seconds behind a reply, so no mail is cut off in its
middle.
"""

import functools
from pathlib import Path
from typing import Final

from aiosmtpd.handlers import Mailbox
from aiosmtpd.smtp import SMTP

MAIL: Final = Path("mail")


@functools.cache
def mailbox() -> Mailbox:
    """Return the mailbox; its folders may be made by several workers at the same moment."""
    for folder in ("cur", "new", "tmp"):
        (MAIL / folder).mkdir(parents=True, exist_ok=True)
    return Mailbox(MAIL)


def smtp() -> SMTP:
    """Return the protocol for one connection."""
    return SMTP(mailbox(), hostname="localhost")
