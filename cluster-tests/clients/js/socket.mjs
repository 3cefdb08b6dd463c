// A WebSocket whose route can be changed under the SDK: where the next
// connection goes, whether the network is there at all, and a hard cut.
// The SDK itself is used exactly as published; it only ever sees the
// `websocket` constructor that its own options ask for.
import net from 'node:net';
import { WebSocket } from 'ws';

/** One client's way to the cluster. */
export class Route {
  constructor(url) {
    this.url = url;
    this.online = true;
    this.current = null;
  }

  /** What to give to the SDK: a constructor that looks the route up at every (re)connect. */
  options() {
    return { websocket: this.constructorFor() };
  }

  constructorFor() {
    const route = this;
    return class RoutedWebSocket extends WebSocket {
      constructor(_url, subprotocol) {
        super(route.url, subprotocol ?? [], route.online ? {} : { createConnection: unplugged });
        route.current = this;
      }
    };
  }

  /** Kills the TCP connection without a WebSocket goodbye: the peer sees a reset. */
  cut() {
    const tcp = this.current?._socket;
    if (tcp) tcp.resetAndDestroy();
    else this.current?.terminate();
  }
}

/** What connecting looks like with the cable pulled. */
function unplugged() {
  const socket = new net.Socket();
  process.nextTick(() => socket.destroy(new Error('offline')));
  return socket;
}
