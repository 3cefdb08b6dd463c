// The same for the transports over HTTP: where the next stream goes, whether the
// network is there at all, and a hard cut. Commands go to each node in turn,
// so hardly ever to the one that has the stream.
import { EventSource } from 'eventsource';

/** One client's way to the cluster. */
export class HttpRoute {
  /** `url` is that of a WebSocket, as everywhere here; `nodes` take the commands. */
  constructor(url, nodes) {
    this.url = url;
    this.nodes = nodes;
    this.next = 0;
    this.online = true;
    this.current = null;
    this.sent = [];
  }

  endpoints(transport) {
    return [{ transport, endpoint: `http://stream.invalid/connection/${transport}` }];
  }

  /** What to give to the SDK: it only ever sees the fetch and the EventSource that its own options ask for. */
  options() {
    const route = this;
    const fetch = (url, init) => route.fetch(url, init);
    return {
      emulationEndpoint: 'http://commands.invalid/emulation',
      readableStream: ReadableStream,
      fetch,
      eventsource: class extends EventSource {
        constructor(url) {
          super(url, { fetch });
        }
      },
    };
  }

  protocol() {
    return this.url.startsWith('wss:') ? 'https:' : 'http:';
  }

  async fetch(to, init = {}) {
    if (!this.online) throw new TypeError('offline');
    const url = new URL(to);
    if (url.hostname === 'commands.invalid') return this.command(url, init);
    url.host = new URL(this.url).host;
    url.protocol = this.protocol();
    const cut = new AbortController();
    this.current = cut;
    init.signal?.addEventListener('abort', () => cut.abort());
    return fetch(url, { ...init, signal: cut.signal });
  }

  /** As a load balancer would: to the next node, and past one that does not take it. */
  async command(url, init) {
    for (const _ of this.nodes) {
      url.host = this.nodes[this.next++ % this.nodes.length];
      url.protocol = this.protocol();
      try {
        const answer = await fetch(url, init);
        this.sent.push({ node: url.host, status: answer.status });
        return answer;
      } catch {
        this.sent.push({ node: url.host, status: 0 });
      }
    }
    return new Response(null, { status: 502 });
  }

  /** Ends the stream's connection. */
  cut() {
    this.current?.abort();
  }
}
