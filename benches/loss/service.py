"""The routes of meter/app.rs once more, for aiohttp under Gunicorn."""

import asyncio

from aiohttp import WSMsgType, web


async def same_id(request):
    return web.Response(text=request.headers["x-id"])


async def later(request):
    await asyncio.sleep(int(request.query["ms"]) / 1000)
    return web.Response(text=request.headers["x-id"])


async def echo(request):
    return web.Response(body=await request.read())


async def upload(request):
    length, checksum = 0, 0xCBF29CE484222325
    async for data in request.content.iter_any():
        length += len(data)
        for byte in data:
            checksum = ((checksum ^ byte) * 0x100000001B3) % 2**64
    return web.Response(text=f"{request.headers['x-id']} {length} {checksum:016x}")


async def big(request):
    line = request.headers["x-id"].encode() + b"\n"
    text = line * max(1, int(request.query["bytes"]) // len(line))
    response = web.StreamResponse()
    response.enable_chunked_encoding()
    await response.prepare(request)
    for start in range(0, len(text), 8192):
        await response.write(text[start : start + 8192])
    return response


async def events(request):
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    response.enable_chunked_encoding()
    await response.prepare(request)
    number = 0
    while not request.app["draining"].is_set():
        await response.write(f"data: {request.headers['x-id']} {number}\n\n".encode())
        number += 1
        try:
            await asyncio.wait_for(request.app["draining"].wait(), 0.05)
        except asyncio.TimeoutError:
            pass
    return response


async def socket(request):
    response = web.WebSocketResponse()
    await response.prepare(request)
    request.app["sockets"].add(response)
    try:
        async for message in response:
            if message.type == WSMsgType.TEXT:
                await response.send_str(message.data)
    finally:
        request.app["sockets"].discard(response)
    return response


async def begin(app):
    app["draining"] = asyncio.Event()
    app["sockets"] = set()


async def drain(app):
    app["draining"].set()
    for response in list(app["sockets"]):
        await response.close(code=1001)


@web.middleware
async def with_id(request, handler):
    return await handler(request)


async def add_id(request, response):
    response.headers["x-id"] = request.headers.get("x-id", "")


app = web.Application(client_max_size=2**26, middlewares=[with_id])
app.on_startup.append(begin)
app.on_shutdown.append(drain)
app.on_response_prepare.append(add_id)
app.add_routes(
    [
        web.get("/loss/id", same_id),
        web.get("/loss/sleep", later),
        web.route("*", "/loss/echo", echo),
        web.route("*", "/loss/upload", upload),
        web.get("/loss/big", big),
        web.get("/loss/sse", events),
        web.get("/loss/ws", socket),
    ]
)
