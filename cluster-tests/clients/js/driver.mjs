// Many clients of the official JavaScript SDK in one process, driven by JSON
// lines (see lines.mjs). Data is JSON text on the wire in both formats.
import { createHash, createHmac } from 'node:crypto';
import { Centrifuge as JsonClient } from 'centrifuge';
import { Centrifuge as ProtobufClient } from 'centrifuge/build/protobuf';
import { HttpRoute } from './http.mjs';
import { Route } from './socket.mjs';
import { say, serve } from './lines.mjs';

const clients = new Map();
const encoder = new TextEncoder();
const decoder = new TextDecoder();

class Client {
  constructor({ client, url, format, transport, emulation, options = {} }) {
    this.name = client;
    this.binary = format === 'protobuf';
    this.route = transport ? new HttpRoute(url, emulation) : new Route(url);
    const Sdk = this.binary ? ProtobufClient : JsonClient;
    this.sdk = new Sdk(transport ? this.route.endpoints(transport) : url, {
      ...this.route.options(),
      minReconnectDelay: 50,
      maxReconnectDelay: 500,
      ...options,
      ...(options.token ? { getToken: async () => options.token } : {}),
    });
    this.sdk.on('connecting', (c) => this.tell('state', { state: 'connecting', ...c }));
    this.sdk.on('connected', (c) => this.tell('state', { state: 'connected', id: c.client }));
    this.sdk.on('disconnected', (c) => this.tell('state', { state: 'disconnected', ...c }));
    this.sdk.on('error', (c) => this.tell('error', { type: c.type, ...c.error }));
    this.sdk.on('message', (c) => this.tell('message', { data: this.decode(c.data) }));
    for (const name of ['subscribed', 'subscribing', 'unsubscribed']) {
      this.sdk.on(name, (c) => this.tell(name, { room: c.channel, server: true, ...this.position(c) }));
    }
    this.sdk.on('publication', (c) => this.tell('pub', this.publication(c)));
    this.sdk.on('join', (c) => this.tell('join', { room: c.channel, info: this.info(c.info) }));
    this.sdk.on('leave', (c) => this.tell('leave', { room: c.channel, info: this.info(c.info) }));
  }

  tell(ev, fields) {
    say({ ev, client: this.name, ...fields });
  }

  encode(data) {
    return this.binary ? encoder.encode(JSON.stringify(data)) : data;
  }

  decode(data) {
    if (!this.binary || !data) return data;
    return data.length === 0 ? null : JSON.parse(decoder.decode(data));
  }

  info(info) {
    if (!info) return undefined;
    const { client, user, connInfo, chanInfo } = info;
    return { client, user, connInfo: this.decode(connInfo), chanInfo: this.decode(chanInfo) };
  }

  publication(c) {
    return {
      room: c.channel, offset: Number(c.offset ?? 0), data: this.decode(c.data),
      info: this.info(c.info), tags: c.tags,
    };
  }

  position(c) {
    return {
      wasRecovering: c.wasRecovering, recovered: c.recovered,
      recoverable: c.recoverable, positioned: c.positioned,
      offset: Number(c.streamPosition?.offset ?? 0), epoch: c.streamPosition?.epoch ?? '',
      code: c.code, reason: c.reason,
    };
  }

  /** The SDK's subscription to `room`, made on first use. */
  subscription(room, { states, ...options } = {}) {
    const known = this.sdk.getSubscription(room);
    if (known) return known;
    // An application with a state of its own: the positions that it says it is at, one after the other.
    if (states) {
      options.getState = async () => {
        this.tell('state_asked', { room });
        return states.length > 1 ? states.shift() : states[0];
      };
    }
    const sub = this.sdk.newSubscription(room, { minResubscribeDelay: 50, ...options });
    for (const name of ['subscribed', 'subscribing', 'unsubscribed']) {
      sub.on(name, (c) => this.tell(name, { room, ...this.position(c) }));
    }
    sub.on('publication', (c) => this.tell('pub', { ...this.publication(c), room }));
    sub.on('join', (c) => this.tell('join', { room, info: this.info(c.info) }));
    sub.on('leave', (c) => this.tell('leave', { room, info: this.info(c.info) }));
    sub.on('error', (c) => this.tell('error', { room, type: c.type, ...c.error }));
    return sub;
  }
}

/** The entries that a client of a map has, as it was told: key by key. */
class Entries {
  constructor(c, room, { presence, ...options } = {}) {
    this.values = new Map();
    const made = {
      clients: () => c.sdk.newMapClientsSubscription(room, options),
      users: () => c.sdk.newMapUsersSubscription(room, options),
    };
    const make = made[presence] ?? (() => c.sdk.newMapSubscription(room, options));
    this.sub = make();
    const value = (e) => ({ data: c.decode(e.data), info: c.info(e.info) });
    this.sub.on('sync', ({ entries }) => {
      this.values = new Map(entries.map((e) => [e.key, value(e)]));
      c.tell('sync', { room, keys: entries.map((e) => e.key) });
    });
    this.sub.on('update', (e) => {
      if (e.removed) this.values.delete(e.key);
      else this.values.set(e.key, value(e));
      c.tell('update', { room, key: e.key, data: c.decode(e.data), removed: !!e.removed });
    });
    for (const name of ['subscribed', 'subscribing', 'unsubscribed']) {
      this.sub.on(name, (s) => c.tell(name, { room, ...c.position(s) }));
    }
    this.sub.on('error', (s) => c.tell('error', { room, type: s.type, ...s.error }));
  }
}

/** What allows an anonymous client to track `keys`, in this order, for `ttl` seconds. */
function signature(secret, room, keys, ttl) {
  const now = Math.floor(Date.now() / 1000);
  const hash = createHash('sha256').update(keys.join('\0')).digest('hex');
  const text = [now, now + ttl, '', room, hash].join('\0');
  return `${now}:${now + ttl}:${createHmac('sha256', secret).update(text).digest('hex')}`;
}

/** Resolves on `good`, rejects with code and reason on `bad`. */
function settled(emitter, good, bad) {
  return new Promise((resolve, reject) => {
    emitter.once(good, resolve);
    emitter.once(bad, (c) => reject({ code: c.code, message: c.reason }));
  });
}

const bytes = (base64) => Uint8Array.from(Buffer.from(base64, 'base64'));

/** Whether the SDK makes `target` of `base` and `delta`; all are base64. */
function reads(codec, binary, { base, target, delta }) {
  const data = binary ? bytes(delta) : decoder.decode(bytes(delta));
  const { newPrevValue } = codec.applyDeltaIfNeeded({ delta: true, data }, bytes(base));
  return Buffer.from(newPrevValue).equals(Buffer.from(target, 'base64'));
}

function clientOf({ client }) {
  const found = clients.get(client);
  if (!found) throw new Error(`no client ${client}`);
  return found;
}

/** With a `pause` in milliseconds between messages it goes on until `hush`. */
async function publishMany(c, { room, count, prefix, pipelined, pause, padding = 0 }) {
  const outcome = { sent: 0, acked: 0, refused: [] };
  const pad = 'x'.repeat(padding);
  const one = async (seq) => {
    try {
      await c.sdk.publish(room, c.encode({ from: prefix, seq, ...(pad ? { pad } : {}) }));
      outcome.acked += 1;
    } catch (e) {
      outcome.refused.push({ seq, code: e?.code ?? 0 });
    }
  };
  const sent = [];
  c.hushed = false;
  for (let seq = 1; pause ? !c.hushed : seq <= count; seq++) {
    outcome.sent = seq;
    if (pause) await new Promise((resolve) => setTimeout(resolve, pause));
    if (pipelined) sent.push(one(seq));
    else await one(seq);
  }
  await Promise.all(sent);
  return outcome;
}

const commands = {
  async connect(request) {
    const c = new Client(request);
    clients.set(c.name, c);
    const done = settled(c.sdk, 'connected', 'disconnected');
    c.sdk.connect();
    return { id: (await done).client };
  },
  async subscribe(request) {
    const c = clientOf(request);
    const sub = c.subscription(request.room, request.options);
    const done = settled(sub, 'subscribed', 'unsubscribed');
    sub.subscribe();
    return c.position(await done);
  },
  async unsubscribe(request) {
    const c = clientOf(request);
    const sub = c.subscription(request.room);
    sub.unsubscribe();
    if (request.forget) c.sdk.removeSubscription(sub);
  },
  async publish(request) {
    const c = clientOf(request);
    await c.sdk.publish(request.room, c.encode(request.data));
  },
  publish_many: (request) => publishMany(clientOf(request), request),
  async hush(request) {
    clientOf(request).hushed = true;
  },
  async history(request) {
    const c = clientOf(request);
    const { limit, since, reverse } = request;
    const page = await c.sdk.history(request.room, { limit, since, reverse });
    return {
      offset: Number(page.offset), epoch: page.epoch,
      publications: page.publications.map((p) => c.publication(p)),
    };
  },
  async delta_stats(request) {
    return clientOf(request).subscription(request.room).deltaStats();
  },
  /** Which of the deltas the SDK can't read. */
  async read_deltas(request) {
    const { sdk, binary } = clientOf(request);
    const wrong = (pair) => {
      try {
        return reads(sdk._codec, binary, pair) ? [] : [pair];
      } catch (e) {
        return [{ ...pair, error: String(e) }];
      }
    };
    return { wrong: request.pairs.flatMap(wrong) };
  },
  async presence(request) {
    const c = clientOf(request);
    const { clients } = await c.sdk.presence(request.room);
    const entries = Object.entries(clients).map(([id, info]) => [id, c.info(info)]);
    return { clients: Object.fromEntries(entries) };
  },
  async presence_stats(request) {
    const { numClients, numUsers } = await clientOf(request).sdk.presenceStats(request.room);
    return { clients: numClients, users: numUsers };
  },
  async rpc(request) {
    const c = clientOf(request);
    return { data: c.decode((await c.sdk.rpc(request.method, c.encode(request.data))).data) };
  },
  /** Subscribes to keys of the room, which `secret` signs; the first time for `ttl` seconds. */
  async poll(request) {
    const c = clientOf(request);
    const { room, secret, ttl = 3600 } = request;
    let next = ttl;
    const sub = c.sdk.newSharedPollSubscription(room, {
      minResubscribeDelay: 50,
      getSignature: async ({ keys }) => {
        c.tell('signature_asked', { room, keys });
        const signed = { keys, signature: signature(secret, room, keys, next) };
        next = 3600;
        return signed;
      },
    });
    for (const name of ['subscribed', 'subscribing', 'unsubscribed']) {
      sub.on(name, (it) => c.tell(name, { room, code: it.code, reason: it.reason }));
    }
    sub.on('error', (it) => c.tell('error', { room, type: it.type, ...it.error }));
    sub.on('update', ({ key, version, data, removed }) => {
      const known = removed ? null : c.decode(data);
      c.tell('update', { room, key, version: Number(version ?? 0), data: known, removed: !!removed });
    });
    const done = settled(sub, 'subscribed', 'unsubscribed');
    sub.subscribe();
    await done;
  },
  async track(request) {
    clientOf(request).sdk.getSubscription(request.room).track(request.keys);
  },
  async untrack(request) {
    clientOf(request).sdk.getSubscription(request.room).untrack(request.keys);
  },
  /** Consumes a group of the room: acknowledges each message, and says what came of that. */
  async consume(request) {
    const c = clientOf(request);
    const { room, group, prefetch, options = {} } = request;
    const sub = c.subscription(room, { ...options, data: c.encode({ group, prefetch }) });
    sub.on('publication', async ({ tags }) => {
      const message = tags['roomcast-message'];
      const ack = { channel: room, deliveries: [tags['roomcast-delivery']] };
      try {
        const { data } = await c.sdk.rpc('queue.ack', c.encode(ack));
        c.tell('settled', { room, message, result: c.decode(data).results[0] });
      } catch (e) {
        c.tell('unsettled', { room, message, code: e?.code ?? 0 });
      }
    });
    const done = settled(sub, 'subscribed', 'unsubscribed');
    sub.subscribe();
    return c.position(await done);
  },
  /** Subscribes to a map. */
  async map(request) {
    const c = clientOf(request);
    c.maps ??= new Map();
    const map = new Entries(c, request.room, request.options);
    c.maps.set(request.room, map);
    const done = settled(map.sub, 'subscribed', 'unsubscribed');
    map.sub.subscribe();
    return c.position(await done);
  },
  /** Goes back to a map that it has left. */
  async enter_map(request) {
    const { sub } = clientOf(request).maps.get(request.room);
    const done = settled(sub, 'subscribed', 'unsubscribed');
    sub.subscribe();
    await done;
  },
  async leave_map(request) {
    clientOf(request).maps.get(request.room).sub.unsubscribe();
  },
  /** The values that a client has of a map. */
  async entries(request) {
    return { entries: Object.fromEntries(clientOf(request).maps.get(request.room).values) };
  },
  async put(request) {
    const c = clientOf(request);
    await c.maps.get(request.room).sub.publish(request.key, c.encode(request.data));
  },
  async remove(request) {
    await clientOf(request).maps.get(request.room).sub.remove(request.key);
  },
  async send(request) {
    const c = clientOf(request);
    await c.sdk.send(c.encode(request.data));
  },
  /** The nodes that commands went to by requests of their own, and what those answered. */
  async commands(request) {
    return clientOf(request).route.sent;
  },
  /** Cuts the TCP connection; with `offline` the network stays away until `move`. */
  async drop(request) {
    const { route } = clientOf(request);
    route.online = !request.offline;
    route.cut();
  },
  /** From now on this client's connections go to `url`; an open one is cut. */
  async move(request) {
    const { route } = clientOf(request);
    const wasOnline = route.online;
    route.url = request.url;
    route.online = true;
    if (wasOnline && request.cut !== false) route.cut();
  },
  async disconnect(request) {
    clientOf(request).sdk.disconnect();
  },
};

serve(commands, async () => {
  for (const c of clients.values()) c.sdk.disconnect();
});
