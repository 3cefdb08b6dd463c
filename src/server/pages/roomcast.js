/**
 * Roomcast in a browser: rooms over one WebSocket, in one file without dependencies.
 *
 *     const client = new Roomcast(['wss://a.example/connection/websocket'], {
 *       getToken: async (endpoint) => (await fetch('/token')).text(),
 *     });
 *     const room = client.room('lobby');
 *     room.addEventListener('publication', ({ detail }) => console.log(detail.data));
 *     room.subscribe();
 *     client.connect();
 *     await room.publish({ text: 'hello' });
 *
 * It speaks the JSON form of the Centrifuge client protocol, version 2. A lost connection is made
 * again by itself, on the next endpoint; rooms then continue from their last position, so that
 * nothing is delivered twice and a gap is reported (`recovered: false`) rather than hidden.
 * Every promise settles: with a result, or with a {@link RoomcastError}.
 */

const COMMAND_TIMEOUT_MS = 5_000;
const PING_GRACE_MS = 10_000;
const BACKOFF_MIN_MS = 500;
const BACKOFF_MAX_MS = 20_000;
/** A connection that lived this long was a good one: the next retry starts from a short delay. */
const STABLE_AFTER_MS = 5_000;

/** Errors that come from this side. The server's own codes start at 100. */
export const TIMEOUT = 1;
export const CONNECTION_LOST = 2;
export const CLOSED = 3;

const TOKEN_EXPIRED = 109;
const STATE_INVALIDATED = 3014;
const ROOM_STATE_INVALIDATED = 2502;
/** Disconnects that are about this client: its node is well, so reconnecting there is fine. */
const NODE_IS_WELL = new Set([3005, 3006, 3008, 3010, 3013, STATE_INVALIDATED]);

/** Why a command failed: `code`, `message`, and whether trying again may help (`temporary`). */
export class RoomcastError extends Error {
  constructor(code, message, temporary = false) {
    super(message);
    this.name = 'RoomcastError';
    this.code = code;
    this.temporary = temporary;
  }
}

/**
 * A connection to the cluster, through whichever endpoint works.
 *
 * Events (`detail`): `connecting` {code, reason, delay} · `connected` {endpoint, client, node, data} ·
 * `disconnected` {code, reason}: the end, until {@link Roomcast#connect} is called again.
 */
export class Roomcast extends EventTarget {
  #endpoints;
  #endpoint;
  #getToken;
  #rooms = new Map();
  #state = 'disconnected';
  #socket = null;
  #replies = new Map(); // command id → {done, timer}
  #outbox = []; // commands of this tick, to leave in one frame
  #lastId = 0;
  #dials = 0; // grows with every dial and loss, so that what belongs to an earlier one can tell
  #attempts = 0;
  #connectedAt = 0;
  #retryTimer;
  #watchdog;
  #silenceLimit = 0;
  #answersPings = false;

  /**
   * @param {string[]} endpoints WebSocket URLs, the preferred one first.
   * @param {{getToken?: (endpoint: string) => Promise<string>}} [options] `getToken` is asked before
   *   every connection attempt; when it fails, the attempt counts as failed.
   */
  constructor(endpoints, { getToken = async () => '' } = {}) {
    super();
    this.#endpoints = [...endpoints];
    this.#endpoint = this.#endpoints[0];
    this.#getToken = getToken;
    globalThis.addEventListener?.('online', () => this.#retryNow());
  }

  /** `connecting`, `connected` or `disconnected`. */
  get state() {
    return this.#state;
  }

  /** The endpoint in use, or tried next. */
  get endpoint() {
    return this.#endpoint;
  }

  /** Where to look for a node when the one in use fails; can change at any time. */
  set endpoints(urls) {
    this.#endpoints = [...urls];
  }

  /** Connects, and stays connected until {@link Roomcast#disconnect} or a terminal disconnect. */
  connect() {
    if (this.#state !== 'disconnected') return;
    this.#state = 'connecting';
    this.#attempts = 0;
    this.#emit('connecting', { code: 0, reason: 'connect called', delay: 0 });
    this.#dial();
  }

  /** Closes the connection for good. Rooms keep their positions for a later `connect`. */
  disconnect() {
    if (this.#state !== 'disconnected') this.#lost(CLOSED, 'disconnect called', true);
  }

  /** The room of that name: always the same object. It does nothing before `subscribe`. */
  room(name) {
    if (!this.#rooms.has(name)) this.#rooms.set(name, new Room(this, name));
    return this.#rooms.get(name);
  }

  /**
   * Sends one command and calls `done(error, result)` with its reply, exactly once. A callback, not
   * a promise: a subscribe reply must be handled before the pushes that follow in its frame.
   * @internal
   */
  command(method, params, done) {
    if (this.#socket?.readyState !== WebSocket.OPEN) {
      done(new RoomcastError(CONNECTION_LOST, 'not connected', true));
      return;
    }
    const id = ++this.#lastId;
    const expire = () => this.#settle(id, new RoomcastError(TIMEOUT, `${method} timed out`, true));
    this.#replies.set(id, { done, timer: setTimeout(expire, COMMAND_TIMEOUT_MS) });
    this.#write({ id, [method]: params });
  }

  /** Gives this connection up and makes another. @internal */
  reconnect(reason) {
    if (this.#state === 'connected') this.#lost(CONNECTION_LOST, reason);
  }

  async #dial() {
    const dial = ++this.#dials;
    this.#watch(COMMAND_TIMEOUT_MS);
    try {
      const token = await this.#getToken(this.#endpoint);
      if (dial === this.#dials) this.#open(token);
    } catch (error) {
      if (dial === this.#dials) this.#lost(CONNECTION_LOST, `could not connect: ${error.message}`);
    }
  }

  #open(token) {
    const socket = new WebSocket(this.#endpoint);
    socket.onopen = () => this.#handshake(token);
    socket.onmessage = ({ data }) => this.#receive(data);
    socket.onclose = ({ code, reason }) => this.#lost(code, reason || 'connection closed');
    this.#socket = socket;
  }

  #handshake(token) {
    const dial = this.#dials;
    this.command('connect', { token, name: 'roomcast-js' }, (error, result) => {
      if (dial !== this.#dials) return;
      if (!error) return this.#connected(result);
      const retry = error.temporary || error.code < 100 || error.code === TOKEN_EXPIRED;
      this.#lost(error.code, error.message, !retry);
    });
  }

  #connected({ client, node, data, ping = 0, pong = false }) {
    this.#state = 'connected';
    this.#connectedAt = Date.now();
    this.#silenceLimit = ping && ping * 1000 + PING_GRACE_MS;
    this.#answersPings = pong;
    this.#watch(this.#silenceLimit);
    this.#emit('connected', { endpoint: this.#endpoint, client, node, data });
    for (const room of this.#rooms.values()) room.onConnected();
  }

  /** The connection is gone (or never came to be): tidy up, then retry elsewhere or stop. */
  #lost(code, reason, terminal = isTerminal(code)) {
    this.#release();
    if (code === STATE_INVALIDATED) for (const room of this.#rooms.values()) room.position = null;
    if (this.#connectedAt && Date.now() - this.#connectedAt > STABLE_AFTER_MS) this.#attempts = 0;
    this.#connectedAt = 0;
    this.#state = terminal ? 'disconnected' : 'connecting';
    const error = new RoomcastError(CONNECTION_LOST, `connection lost: ${reason}`, true);
    this.#failCommands(error);
    for (const room of this.#rooms.values()) room.onConnectionLost(error, terminal);
    if (terminal) this.#emit('disconnected', { code, reason });
    else this.#retry(code, reason);
  }

  #release() {
    this.#dials += 1;
    clearTimeout(this.#watchdog);
    clearTimeout(this.#retryTimer);
    this.#retryTimer = undefined;
    this.#outbox = [];
    if (!this.#socket) return;
    this.#socket.onopen = this.#socket.onmessage = this.#socket.onclose = null;
    this.#socket.close();
    this.#socket = null;
  }

  #retry(code, reason) {
    if (!NODE_IS_WELL.has(code)) this.#endpoint = this.#nextEndpoint();
    // One round over all endpoints shares a step, so a healthy one is found before waiting longer.
    const delay = backoff(Math.floor(this.#attempts++ / Math.max(1, this.#endpoints.length)));
    this.#retryTimer = setTimeout(() => this.#retryNow(), delay);
    this.#emit('connecting', { code, reason, delay });
  }

  #retryNow() {
    if (this.#retryTimer === undefined) return;
    clearTimeout(this.#retryTimer);
    this.#retryTimer = undefined;
    this.#dial();
  }

  #nextEndpoint() {
    const next = this.#endpoints.indexOf(this.#endpoint) + 1;
    return this.#endpoints[next % this.#endpoints.length] ?? this.#endpoint;
  }

  #receive(frame) {
    const dial = this.#dials;
    if (this.#state === 'connected') this.#watch(this.#silenceLimit);
    for (const line of frame.split('\n')) {
      if (line !== '') this.#handleLine(line);
      if (dial !== this.#dials) return; // a listener or the server ended this connection
    }
  }

  #handleLine(line) {
    let reply;
    try {
      reply = JSON.parse(line);
    } catch {
      this.#lost(CONNECTION_LOST, 'unreadable reply');
      return;
    }
    if (reply.id) this.#settle(reply.id, reply.error && serverError(reply.error), reply);
    else if (reply.push) this.#push(reply.push);
    else if (this.#answersPings) this.#write({});
  }

  #push(push) {
    if (push.disconnect) this.#lost(push.disconnect.code, push.disconnect.reason);
    else this.#rooms.get(push.channel)?.onPush(push);
  }

  #settle(id, error, reply = {}) {
    const waiting = this.#replies.get(id);
    if (!waiting) return;
    this.#replies.delete(id);
    clearTimeout(waiting.timer);
    const { id: _, error: __, ...results } = reply;
    waiting.done(error, Object.values(results)[0] ?? {});
  }

  #failCommands(error) {
    for (const id of [...this.#replies.keys()]) this.#settle(id, error);
  }

  #write(command) {
    if (this.#outbox.push(JSON.stringify(command)) > 1) return;
    queueMicrotask(() => {
      const frame = this.#outbox.splice(0).join('\n');
      if (frame && this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(frame);
    });
  }

  /** Takes the server for dead when it stays silent for `limit` ms (0: never). */
  #watch(limit) {
    clearTimeout(this.#watchdog);
    if (limit) this.#watchdog = setTimeout(() => this.#lost(TIMEOUT, 'no answer'), limit);
  }

  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

/**
 * A room: what is published there, in order, and who is there.
 *
 * Events (`detail`): `subscribing` {code, reason} · `subscribed` {wasRecovering, recovered, epoch} ·
 * `publication` {data, offset, epoch, info, tags} · `join` and `leave` {client, user, conn_info} ·
 * `unsubscribed` {code, reason}: the end, until {@link Room#subscribe} is called again.
 */
export class Room extends EventTarget {
  #client;
  #state = 'unsubscribed';
  #tries = 0; // grows with every subscribe, so that a reply to an earlier one can tell
  #failures = 0;
  #retryTimer;
  #waiters = new Set();

  /** The position reached, `{epoch, offset}`; null where the room keeps none. */
  position = null;

  /** Made by {@link Roomcast#room}. @internal */
  constructor(client, name) {
    super();
    this.#client = client;
    this.name = name;
  }

  /** `unsubscribed`, `subscribing` or `subscribed`. */
  get state() {
    return this.#state;
  }

  /** Enters the room, now or as soon as there is a connection, and stays through reconnections. */
  subscribe() {
    if (this.#state !== 'unsubscribed') return;
    this.#subscribing(0, 'subscribe called');
    this.#subscribe();
  }

  /** Leaves the room and forgets its position. */
  unsubscribe() {
    if (this.#state === 'unsubscribed') return;
    this.#end(0, 'unsubscribe called');
    this.#client.command('unsubscribe', { channel: this.name }, (error) => {
      // Without an answer the server may still think we are here: only a new connection is sure.
      if (error?.code === TIMEOUT) this.#client.reconnect('unsubscribe timed out');
    });
  }

  /** Publishes; settles when the server has answered. A lost connection rejects: it may or may not have arrived. */
  async publish(data) {
    await this.#call('publish', { data });
  }

  /**
   * Reads the room's log: from its start, from its end (`reverse`), or from a position on (`since`).
   * @param {{limit?: number, since?: {epoch: string, offset: number}, reverse?: boolean}} [query]
   *   `limit: 0` asks for the position only.
   * @returns {Promise<{publications: object[], epoch: string, offset: number}>}
   */
  async history({ limit = 0, since, reverse = false } = {}) {
    const result = await this.#call('history', { limit, since, reverse });
    return {
      publications: result.publications ?? [],
      epoch: result.epoch ?? '',
      offset: result.offset ?? 0,
    };
  }

  /** Who is in the room: an object from client id to `{client, user, conn_info}`. */
  async presence() {
    return (await this.#call('presence', {})).presence ?? {};
  }

  /** @internal */
  onConnected() {
    if (this.#state === 'subscribing') this.#subscribe();
  }

  /** @internal */
  onConnectionLost(error, terminal) {
    if (this.#state === 'unsubscribed') return;
    this.#subscribing(error.code, error.message);
    if (terminal) this.#releaseWaiters(error);
  }

  /** @internal */
  onPush(push) {
    if (this.#state !== 'subscribed') return;
    if (push.pub) this.#deliver(push.pub);
    else if (push.join) this.#emit('join', push.join.info);
    else if (push.leave) this.#emit('leave', push.leave.info);
    else if (push.unsubscribe) this.#unsubscribedByServer(push.unsubscribe);
  }

  #unsubscribedByServer({ code = 0, reason = '' }) {
    if (code < 2500) return this.#end(code, reason);
    if (code === ROOM_STATE_INVALIDATED) this.position = null;
    this.#subscribing(code, reason);
    this.#subscribeLater();
  }

  #subscribe() {
    if (this.#client.state !== 'connected') return; // onConnected comes back to it
    const attempt = ++this.#tries;
    const from = this.position;
    const request = { channel: this.name, positioned: true, recoverable: true, join_leave: true };
    if (from) Object.assign(request, { recover: true, ...from });
    this.#client.command('subscribe', request, (error, result) => {
      if (attempt !== this.#tries || this.#state !== 'subscribing') return;
      if (error) this.#subscribeFailed(error);
      else this.#subscribed(from, result);
    });
  }

  #subscribeFailed(error) {
    if (error.code === TIMEOUT) this.#client.reconnect('subscribe timed out');
    else if (error.temporary) this.#subscribeLater();
    else this.#end(error.code, error.message);
  }

  #subscribeLater() {
    clearTimeout(this.#retryTimer);
    this.#retryTimer = setTimeout(() => this.#subscribe(), backoff(this.#failures++));
  }

  #subscribed(
    from,
    { epoch = '', offset = 0, recoverable, positioned, recovered = false, publications = [] },
  ) {
    this.#state = 'subscribed';
    this.#failures = 0;
    const keepsPosition = Boolean(recoverable || positioned);
    // What was recovered comes after our own position, whatever offset the reply itself names.
    this.position = keepsPosition
      ? { epoch, offset: recovered && from ? from.offset : offset }
      : null;
    this.#releaseWaiters();
    this.#emit('subscribed', { wasRecovering: from !== null, recovered, epoch });
    for (const publication of publications) this.#deliver(publication);
    if (this.position && this.position.offset < offset) this.position.offset = offset;
  }

  #deliver(publication) {
    const { position } = this;
    if (position && publication.offset) {
      if (publication.offset <= position.offset) return; // seen already
      position.offset = publication.offset;
    }
    this.#emit('publication', { ...publication, epoch: position?.epoch });
  }

  async #call(method, params) {
    await this.#ready();
    return new Promise((resolve, reject) => {
      const done = (error, result) => (error ? reject(error) : resolve(result));
      this.#client.command(method, { channel: this.name, ...params }, done);
    });
  }

  /** Settles when the room is entered; a short reconnection need not fail what can wait for it. */
  #ready() {
    if (this.#state === 'subscribed') return Promise.resolve();
    if (this.#state === 'unsubscribed')
      return Promise.reject(new RoomcastError(CLOSED, 'not in the room'));
    return new Promise((resolve, reject) => {
      const expire = () =>
        this.#releaseWaiter(waiter, new RoomcastError(TIMEOUT, 'no connection', true));
      const waiter = { resolve, reject, timer: setTimeout(expire, COMMAND_TIMEOUT_MS) };
      this.#waiters.add(waiter);
    });
  }

  #releaseWaiter(waiter, error) {
    this.#waiters.delete(waiter);
    clearTimeout(waiter.timer);
    if (error) waiter.reject(error);
    else waiter.resolve();
  }

  #releaseWaiters(error) {
    for (const waiter of [...this.#waiters]) this.#releaseWaiter(waiter, error);
  }

  #subscribing(code, reason) {
    clearTimeout(this.#retryTimer);
    const before = this.#state;
    this.#state = 'subscribing';
    if (before !== 'subscribing') this.#emit('subscribing', { code, reason });
  }

  #end(code, reason) {
    clearTimeout(this.#retryTimer);
    this.#state = 'unsubscribed';
    this.position = null;
    this.#releaseWaiters(new RoomcastError(CLOSED, `left the room: ${reason}`));
    this.#emit('unsubscribed', { code, reason });
  }

  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

function isTerminal(code) {
  return (code >= 3500 && code < 4000) || (code >= 4500 && code < 5000);
}

/** Full jitter: any delay up to a ceiling that doubles, so that a crowd does not come back at once. */
function backoff(step) {
  return Math.random() * Math.min(BACKOFF_MAX_MS, BACKOFF_MIN_MS * 2 ** Math.min(step, 10));
}

function serverError({ code = 100, message = 'error', temporary = false }) {
  return new RoomcastError(code, message, temporary);
}
