"""What only the asyncio client does: tasks and their cancellation."""

import asyncio
import contextlib
import os
import socket
import threading

import pytest

from client.conftest import DEADLINE, Serve, Server, echo, hold_until
from prefork_client import AsyncClient, ClientBusy, ClientClosed, ReplyTimeout


async def until(event: threading.Event) -> None:
    assert await asyncio.to_thread(event.wait, DEADLINE)


def test_a_cancelled_request_closes_the_connection(serve: Serve) -> None:
    asked, cancelled = threading.Event(), threading.Event()

    def answer_late(connection: socket.socket) -> None:
        connection.recv(100)
        asked.set()
        cancelled.wait(DEADLINE)
        connection.sendall(b"too late\n")

    async def main(address: str) -> None:
        async with AsyncClient(address) as client:
            request = asyncio.create_task(client.request(b"one"))
            await until(asked)
            request.cancel()
            with pytest.raises(asyncio.CancelledError):
                await request
            cancelled.set()
            with pytest.raises(ClientClosed, match="CancelledError"):
                await client.request(b"two")

    asyncio.run(main(serve(answer_late).address))


def test_the_callers_own_timeout_is_the_callers(serve: Serve) -> None:
    over = threading.Event()

    async def main(address: str) -> None:
        async with AsyncClient(address) as client:
            with pytest.raises(TimeoutError) as failed:
                async with asyncio.timeout(0.1):
                    await client.request(b"one")
            assert not isinstance(failed.value, ReplyTimeout)
            with pytest.raises(ClientClosed):
                await client.request(b"two")
        over.set()

    asyncio.run(main(serve(hold_until(over)).address))


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # the thread of the test's server is not needed there
def test_a_forked_child_harms_nothing_of_its_parents(echo_server: Server) -> None:
    async def ask(client: AsyncClient) -> bytes:
        return await client.request(b"mine")

    async def main() -> None:
        async with AsyncClient(echo_server.address) as client:
            assert await ask(client) == b"mine"
            if (child := os.fork()) == 0:
                code = 1
                try:
                    asyncio.events._set_running_loop(None)
                    asyncio.new_event_loop().run_until_complete(ask(client))
                except ClientClosed:
                    code = 0
                finally:
                    os._exit(code)
            assert await asyncio.to_thread(os.waitpid, child, 0) == (child, 0)
            assert await ask(client) == b"mine"

    asyncio.run(main())


def test_a_peer_that_sends_without_end_leaves_others_their_turn(serve: Serve) -> None:
    over = threading.Event()

    def pour(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while not over.is_set():
                connection.sendall(b"more\n" * 1000)

    async def listen(client: AsyncClient) -> None:
        async for frame in client:
            assert frame == b"more"

    async def main(address: str) -> None:
        async with AsyncClient(address) as client:
            listening = asyncio.create_task(listen(client))
            await asyncio.sleep(0.3)
            listening.cancel()
            with pytest.raises(asyncio.CancelledError):
                await listening

    try:
        asyncio.run(asyncio.wait_for(main(serve(pour).address), DEADLINE))
    finally:
        over.set()


def test_two_requests_at_once_cannot_mix_up_their_answers(serve: Serve) -> None:
    refused = threading.Event()

    def answer_when_the_other_was_refused(connection: socket.socket) -> None:
        refused.wait(DEADLINE)
        echo(connection)

    async def main(address: str) -> None:
        async with AsyncClient(address) as client:
            first = asyncio.create_task(client.request(b"one"))
            await asyncio.sleep(0)
            with pytest.raises(ClientBusy):
                await client.request(b"two")
            refused.set()
            assert await first == b"one"
            assert await client.request(b"three") == b"three"

    asyncio.run(main(serve(answer_when_the_other_was_refused).address))


def test_one_task_sends_while_another_receives(echo_server: Server) -> None:
    async def main() -> None:
        async with AsyncClient(echo_server.address) as client:
            receiving = asyncio.create_task(client.receive())
            await asyncio.sleep(0)
            await client.send(b"one")
            assert await receiving == b"one"

    asyncio.run(main())


def test_closing_wakes_a_call_that_waits(echo_server: Server) -> None:
    async def main() -> None:
        client = AsyncClient(echo_server.address, reply_timeout=None)
        await client.connect()
        receiving = asyncio.create_task(client.receive())
        await asyncio.sleep(0)
        await client.close()
        with pytest.raises(ClientClosed, match=r"close\(\) was called"):
            await asyncio.wait_for(receiving, DEADLINE)
        assert client._socket is None

    asyncio.run(main())


def test_closing_while_connecting_leaves_nothing_open(echo_server: Server) -> None:
    async def main() -> None:
        client = AsyncClient(echo_server.address)
        connecting = asyncio.create_task(client.connect())
        await asyncio.sleep(0)
        await client.close()
        with pytest.raises(ClientClosed):
            await connecting
        assert client._socket is None

    asyncio.run(main())


def test_a_cancelled_connect_leaves_nothing_open(full_listener: str) -> None:
    async def main() -> None:
        client = AsyncClient(full_listener)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await client.connect()
        assert client._socket is None

    asyncio.run(main())


def test_many_clients_share_a_loop(serve: Serve) -> None:
    server = serve(echo)

    async def ask(name: bytes) -> bytes:
        async with AsyncClient(server.address) as client:
            return await client.request(name)

    async def main() -> None:
        names = [b"%d" % number for number in range(50)]
        assert await asyncio.gather(*map(ask, names)) == names

    asyncio.run(main())
