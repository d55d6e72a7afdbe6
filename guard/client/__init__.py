"""Ask a service that `guard serve` started, from Python.

blocking    `Client`
awaiting    `AsyncClient`
asking      what is sent and what comes back, without a connection
retrying    which answers are asked for again, and when
"""

from .asking import ServedVerdict as ServedVerdict
from .awaiting import AsyncClient as AsyncClient
from .blocking import Client as Client
