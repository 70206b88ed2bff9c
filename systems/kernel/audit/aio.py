"""The log from an event loop: a buffered event costs no thread, a security event never blocks the loop."""

import asyncio
from typing import final

from holdfast.systems.kernel.audit.event import Event
from holdfast.systems.kernel.audit.log import AuditLog
from holdfast.systems.kernel.audit.verify import MAX_BUFFER

__all__ = ["AsyncAuditLog"]


@final
class AsyncAuditLog:
    """The same promises as `AuditLog`, awaited."""

    def __init__(self, log: AuditLog) -> None:
        self._log = log

    async def append(self, event: Event) -> int:
        """As `AuditLog.append`; raises `AuditError`."""
        buffered = event.type not in self._log.options.security and self._log.waiting < MAX_BUFFER - 1
        if buffered:
            return self._log.append(event)
        return await asyncio.to_thread(self._log.append, event)

    async def flush(self) -> None:
        """As `AuditLog.flush`."""
        await asyncio.to_thread(self._log.flush)

    async def close(self) -> None:
        """As `AuditLog.close`."""
        await asyncio.to_thread(self._log.close)
