// The Socket.IO server that Roomcast is compared with, as its documentation advises for speed and memory.
// In: PORT, and REDIS_PORT when it is one of several nodes. Events: join(room), publish(room, data), both
// answered; a room's subscribers get message(data).
import { createAdapter } from '@socket.io/redis-adapter';
import { createServer } from 'node:http';
import { createClient } from 'redis';
import { Server } from 'socket.io';

const { PORT, REDIS_PORT } = process.env;

async function adapter() {
  if (!REDIS_PORT) return undefined;
  const publisher = createClient({ url: `redis://127.0.0.1:${REDIS_PORT}` });
  const subscriber = publisher.duplicate();
  await Promise.all([publisher.connect(), subscriber.connect()]);
  return createAdapter(publisher, subscriber);
}

const http = createServer();
const io = new Server(http, {
  transports: ['websocket'],
  perMessageDeflate: false,
  httpCompression: false,
  serveClient: false,
  adapter: await adapter(),
});

// "Memory usage" in its documentation: the first HTTP request of each session need not be kept.
io.engine.on('connection', (raw) => {
  raw.request = null;
});

io.on('connection', (socket) => {
  socket.on('join', async (room, answer) => {
    await socket.join(room);
    answer();
  });
  socket.on('publish', (room, data, answer) => {
    io.to(room).emit('message', data);
    answer();
  });
});

http.listen(Number(PORT), '127.0.0.1', 4096);
