/**
 * The demo chat: one page on every node. It shows what a client of the cluster sees: who is here,
 * what was said, which node serves it, and that losing that node loses no message.
 *
 * In the order of the file: what is remembered · the cluster (nodes, tokens) · people · the message
 * log (DOM only) · a conversation (one room: decides what the log shows) · the page's controls.
 */
import { Roomcast } from '/roomcast.js';

const DEFAULT_ROOM = 'lobby';
const SUGGESTED_ROOMS = ['lobby', 'kitchen', 'music', 'launch'];
const RECENT_ROOMS_KEPT = 6;
const PAGE_SIZE = 50;
/** After a gap, at most this many pages are read back to close it. */
const CATCH_UP_PAGES = 6;
const SHOWN_MAX = 1000;
const SHOWN_AFTER_TRIM = 700;
const GROUP_WITHIN_MS = 5 * 60_000;
const PEOPLE_SHOWN = 100;
const PEOPLE_ANNOUNCED_BELOW = 50;
const PEOPLE_REFRESH_MS = 60_000;
/** Someone who moves to another node leaves and joins: only a longer absence counts as leaving. */
const LEAVE_GRACE_MS = 1_500;
/** Without a feed, the nodes are asked for this often. */
const NODES_REFRESH_MS = 15_000;
const FEED_RETRY_MS = 250;
const NODE_FORGOTTEN_AFTER_MS = 5 * 60_000;
const FETCH_TIMEOUT_MS = 4_000;
const RETRY_OLDER_AFTER_MS = 3_000;
const NO_HISTORY = 108;
const POSITION_GONE = 112;

const $ = (id) => document.getElementById(id);

/** Makes an element. User data only ever goes in as text or attribute, never as markup. */
function element(tag, { className = '', text = '', data = {}, ...attributes } = {}, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text) made.textContent = text;
  Object.assign(made.dataset, data);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** 0 ≤ share < 1 for a name. The golden ratio keeps names that differ in one letter (a, b, c) apart. */
function shareOf(name) {
  let hash = 0;
  for (const char of name) hash = (hash * 31 + char.codePointAt(0)) >>> 0;
  return (hash * 0.618034) % 1;
}

function tint(made, hue) {
  made.style.setProperty('--hue', hue.toFixed(1));
  return made;
}

function tintPerson(made, name) {
  return tint(made, shareOf(name) * 360);
}

/** A node's dot stays clear of red and amber, which tell that something is wrong. */
function tintNode(made, name) {
  return tint(made, 140 + shareOf(name) * 190);
}

function avatar(name) {
  const words = name.split(/\s+/).filter(Boolean);
  const initials = [words[0], words.length > 1 ? words.at(-1) : ''].map(
    (word) => [...(word ?? '')][0] ?? '',
  );
  const data = { initials: initials.join('').toUpperCase() };
  return tintPerson(element('span', { className: 'avatar', 'aria-hidden': 'true', data }), name);
}

function randomId() {
  // Not randomUUID: that exists on secure origins only, and a demo is often on plain http.
  return [...crypto.getRandomValues(new Uint8Array(12))]
    .map((byte) => byte.toString(16).padStart(2, '0'))
    .join('');
}

/* What is remembered */

/** localStorage, which a browser may refuse: then nothing is remembered, and nothing breaks. */
const memory = {
  get(key) {
    try {
      return localStorage.getItem(`roomcast.${key}`);
    } catch {
      return null;
    }
  },
  set(key, value) {
    try {
      localStorage.setItem(`roomcast.${key}`, value);
    } catch {
      /* not remembered */
    }
  },
};

function recentRooms() {
  return (memory.get('rooms') ?? '').split('\n').map(cleanRoom).filter(Boolean);
}

function rememberRoom(room) {
  const rooms = [room, ...recentRooms().filter((other) => other !== room)];
  memory.set('rooms', rooms.slice(0, RECENT_ROOMS_KEPT).join('\n'));
}

function knownRooms() {
  return [...new Set([...SUGGESTED_ROOMS, ...recentRooms()])];
}

/** Leaves out the characters that have a meaning in room names (namespace, private, users). */
function cleanRoom(name) {
  return name
    .trim()
    .replace(/[\s:#$&*/,]+/g, '-')
    .replace(/^-+|-+$/g, '')
    .slice(0, 64);
}

function cleanName(name) {
  return name.trim().replace(/\s+/g, ' ').slice(0, 32);
}

function roomInAddress() {
  try {
    return cleanRoom(decodeURIComponent(location.hash.slice(1))) || DEFAULT_ROOM;
  } catch {
    return DEFAULT_ROOM; // not a valid percent-encoding
  }
}

function suggestedName() {
  const pick = (words) => words.split(' ')[Math.floor(Math.random() * words.split(' ').length)];
  return `${pick('Brave Calm Clever Cosy Gentle Happy Lucky Merry Quick Quiet Sunny Witty')} ${pick(
    'Badger Beaver Falcon Fox Heron Koala Lynx Otter Panda Puffin Robin Squirrel Wombat',
  )}`;
}

/* The cluster */

/**
 * The nodes this page knows of, dead ones included, so that it can move when its own dies. One node at a
 * time is followed by its feed, which tells at once who comes and goes; where there is none, it is asked.
 */
class Cluster extends EventTarget {
  #ownName = '';
  #nodes = new Map(); // name → {name, url, phase, live, seenAt}
  #followed = '';
  #feed = null;
  #failures = 0; // feeds lost since one last told something
  #retryTimer;

  /** All nodes, by name. */
  get nodes() {
    return [...this.#nodes.values()].sort((a, b) =>
      a.name.localeCompare(b.name, undefined, { numeric: true }),
    );
  }

  /** WebSocket endpoints: this page's own node first, then the others, the live ones before the rest. */
  get endpoints() {
    return this.#urls.map((url) => `${url.replace(/^http/, 'ws')}/connection/websocket`);
  }

  get #urls() {
    const others = this.nodes.sort((a, b) => b.live - a.live).map((node) => node.url);
    return [...new Set([location.origin, ...others])];
  }

  nameOf(endpoint) {
    const url = httpOf(endpoint);
    return (
      this.nodes.find((node) => node.url === url)?.name ??
      (url === location.origin ? this.#ownName : new URL(url).host)
    );
  }

  has(name) {
    return this.#nodes.has(name);
  }

  /** Sees the cluster as the node at `url` does, and as another one does when that is lost. */
  follow(url) {
    if (url === this.#followed && this.#feed) return;
    clearTimeout(this.#retryTimer);
    if (this.#feed) {
      this.#feed.onmessage = this.#feed.onclose = null;
      this.#feed.close();
    }
    this.#followed = url;
    this.#feed = new WebSocket(`${url.replace(/^http/, 'ws')}/demo/feed`);
    this.#feed.onmessage = ({ data }) => {
      this.#failures = 0;
      this.#take(url, JSON.parse(data));
    };
    this.#feed.onclose = () => this.#lost();
  }

  /** The feed is lost, or was not to be had: the next node has one, perhaps; once round, asking has to do. */
  #lost() {
    this.#feed = null;
    const urls = this.#urls;
    const next = urls[(urls.indexOf(this.#followed) + 1) % urls.length];
    this.#failures += 1;
    const round = Math.floor((this.#failures - 1) / urls.length);
    if (round > 0) this.#ask(next);
    const delay = Math.min(NODES_REFRESH_MS, FEED_RETRY_MS * 2 ** Math.min(round, 10));
    this.#retryTimer = setTimeout(() => this.follow(next), delay * (0.5 + Math.random() / 2));
  }

  /** Asks the node at `url` who is in the cluster; keeps what is known when it does not answer. */
  async #ask(url) {
    try {
      this.#take(url, await getJson(`${url}/demo/nodes`));
    } catch {
      /* asked again soon */
    }
  }

  #take(url, { node, nodes }) {
    if (url === location.origin) this.#ownName = node;
    this.#merge(nodes);
    this.dispatchEvent(new Event('change'));
  }

  #merge(nodes) {
    const now = Date.now();
    for (const node of this.#nodes.values()) node.live = false;
    for (const { name, url, phase } of nodes) {
      // Under the page's own address, which may be another name for the same node (localhost).
      const reachedAt = name === this.#ownName ? location.origin : url.replace(/\/+$/, '');
      this.#nodes.set(name, { name, url: reachedAt, phase, live: true, seenAt: now });
    }
    for (const { name, seenAt } of this.#nodes.values()) {
      if (now - seenAt > NODE_FORGOTTEN_AFTER_MS) this.#nodes.delete(name);
    }
  }
}

function httpOf(endpoint) {
  return endpoint.replace(/^ws/, 'http').replace(/\/connection\/websocket$/, '');
}

async function getJson(url) {
  const response = await fetch(url, {
    signal: AbortSignal.timeout(FETCH_TIMEOUT_MS),
    cache: 'no-store',
  });
  if (!response.ok) throw new Error(`${new URL(url).host} answered ${response.status}`);
  return response.json();
}

/** Any live node signs; asking the one to connect to makes one round of failures, not two. */
async function fetchToken(endpoint, name) {
  return (await getJson(`${httpOf(endpoint)}/demo/token?name=${encodeURIComponent(name)}`)).token;
}

/* People */

/** Who is in the room, by client; a person may have several. Events: `change`, `joined`, `left` (detail: name). */
class People extends EventTarget {
  #clients = new Map(); // client id → {name, since}

  /** Distinct names. */
  get names() {
    return [...new Set([...this.#clients.values()].map(({ name }) => name))];
  }

  has(name) {
    return [...this.#clients.values()].some((client) => client.name === name);
  }

  /** Replaces all by a presence reading taken at `readAt`; who joined since then stays. */
  replace(presence, readAt) {
    const joinedSince = [...this.#clients].filter(([, { since }]) => since >= readAt);
    const present = Object.values(presence).map((info) => [
      info.client,
      { name: personName(info), since: 0 },
    ]);
    this.#clients = new Map([...present, ...joinedSince]);
    this.dispatchEvent(new Event('change'));
  }

  join(info) {
    const name = personName(info);
    const isNew = !this.has(name);
    this.#clients.set(info.client, { name, since: Date.now() });
    if (isNew) this.#tell('joined', name);
  }

  leave({ client }) {
    const leaving = this.#clients.get(client);
    if (!leaving) return;
    setTimeout(() => {
      // Back meanwhile: not gone at all.
      if (this.#clients.get(client) !== leaving) return;
      this.#clients.delete(client);
      if (!this.has(leaving.name)) this.#tell('left', leaving.name);
    }, LEAVE_GRACE_MS);
  }

  #tell(type, name) {
    this.dispatchEvent(new CustomEvent(type, { detail: name }));
    this.dispatchEvent(new Event('change'));
  }
}

function personName({ user, conn_info: info }) {
  return String(info?.name ?? user ?? '') || 'someone';
}

/* The message log */

/**
 * What a publication says, whoever sent it: this page, or anyone through the server API.
 * `key` identifies a message by author *and* id, so that no one can pass for another's message.
 */
function readMessage({ data, info, offset = 0, epoch = '' }) {
  const said = data !== null && typeof data === 'object' ? data : { text: data };
  const user = String(info?.user ?? said.name ?? '');
  const name = String(info?.conn_info?.name ?? said.name ?? user).slice(0, 64) || 'server';
  const id = typeof said.id === 'string' && said.id ? said.id : `${epoch}:${offset}`;
  const text = typeof said.text === 'string' ? said.text : JSON.stringify(said.text ?? data);
  const at = Number.isFinite(said.at) && Math.abs(said.at) < 8e15 ? said.at : null;
  return { key: JSON.stringify([user, id]), id, user, name, text, at, offset };
}

const timeFormat = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit' });
const dayFormat = new Intl.DateTimeFormat(undefined, {
  weekday: 'long',
  day: 'numeric',
  month: 'long',
});

function dayOf(at) {
  const today = dayFormat.format(Date.now());
  const day = dayFormat.format(at);
  return day === today ? 'Today' : day;
}

/**
 * The list of messages on the screen. Confirmed messages are kept in the order of their positions,
 * unconfirmed ones below them; the reader's place is kept whatever is added where.
 */
class MessageLog {
  #root = $('messages');
  #list = $('log');
  #newer = $('newer');
  #me;
  #entries = new Map(); // key → {message, era, made}
  #entryOf = new WeakMap(); // element → entry
  #peopleNote = null;
  #unread = 0;
  #atEnd = true;
  #following = false;
  #lastTop = 0;

  constructor(me) {
    this.#me = me;
    this.#root.addEventListener('scroll', () => this.#scrolled(), { passive: true });
    this.#newer.addEventListener('click', () => this.scrollToEnd());
    new ResizeObserver(() => this.#atEnd && this.scrollToEnd()).observe(this.#root);
  }

  clear() {
    this.#entries.clear();
    this.#list.replaceChildren();
    this.#peopleNote = null;
    this.scrollToEnd();
  }

  /** Shows a publication, or confirms the pending message that it is. Says whether it is news. */
  add(message, era = 0) {
    const isNews = !this.#entries.has(message.key);
    const made = this.#insert(message, era);
    if (this.#atEnd) this.#followEnd();
    else if (isNews && !made.nextElementSibling) this.#showUnread(this.#unread + 1);
    return isNews;
  }

  /** Shows a page of older messages, newest first, without moving what is being read. */
  addOlder(messages, era) {
    this.#root.setAttribute('aria-live', 'off'); // nobody wants old messages read out
    const fromEnd = this.#root.scrollHeight - this.#root.scrollTop;
    for (const message of messages) this.#insert(message, era);
    if (this.#atEnd) this.scrollToEnd();
    else this.#root.scrollTop = this.#root.scrollHeight - fromEnd;
    setTimeout(() => this.#root.setAttribute('aria-live', 'polite'), 200);
  }

  addPending(message) {
    const entry = this.#make(message);
    entry.made.classList.add('pending');
    this.#list.append(entry.made);
    this.#dress(entry.made);
    this.scrollToEnd();
  }

  /** Marks a pending message as not sent; `retry` runs when the reader asks for it. */
  fail(key, reason, retry) {
    const made = this.#entries.get(key)?.made;
    if (!made?.classList.contains('pending') || made.classList.contains('failed')) return;
    made.classList.add('failed');
    const text = 'Not sent – tap to retry';
    const button = element('button', { type: 'button', className: 'retry', text, title: reason });
    button.addEventListener('click', () => {
      made.classList.remove('failed');
      button.remove();
      retry();
    });
    made.append(button);
    this.#followEnd();
  }

  /** The messages that no publication has confirmed. */
  get unconfirmed() {
    const waiting = [...this.#entries.values()].filter(({ made }) =>
      made.classList.contains('pending'),
    );
    return waiting.map(({ message }) => message);
  }

  /** The offsets of all messages shown, by key. */
  get offsets() {
    return new Map([...this.#entries].map(([key, { message }]) => [key, message.offset]));
  }

  /** A line of the page's own, below the confirmed messages. */
  note(kind, text) {
    const made = element('li', { className: 'system', text, data: { kind } });
    this.#list.insertBefore(made, this.#firstPending());
    if (made.nextElementSibling) this.#dress(made.nextElementSibling);
    this.#followEnd();
    return made;
  }

  /** Says who came and went; one line takes all of it until someone speaks. */
  notePerson(name, joined) {
    const last = this.#firstPending()?.previousElementSibling ?? this.#list.lastElementChild;
    if (!this.#peopleNote || this.#peopleNote.made !== last) {
      this.#peopleNote = { made: this.note('people', ''), joined: new Set(), left: new Set() };
    }
    const note = this.#peopleNote;
    const [to, from] = joined ? [note.joined, note.left] : [note.left, note.joined];
    if (!from.delete(name)) to.add(name);
    const parts = [listed(note.joined, 'joined'), listed(note.left, 'left')].filter(Boolean);
    note.made.textContent = parts.join(' · ');
    if (parts.length === 0) note.made.remove();
    this.#followEnd();
  }

  /** Drops the oldest messages of a long log while its end is read; returns the oldest one left. */
  trim() {
    if (this.#entries.size <= SHOWN_MAX || !this.#atEnd) return null;
    while (this.#entries.size > SHOWN_AFTER_TRIM) {
      const first = this.#list.firstElementChild;
      this.#entries.delete(this.#entryOf.get(first)?.message.key);
      first.remove();
    }
    while (this.#list.firstElementChild.matches('.system')) this.#list.firstElementChild.remove();
    this.#dress(this.#list.firstElementChild);
    this.scrollToEnd();
    return this.#entryOf.get(this.#list.firstElementChild);
  }

  scrollToEnd() {
    this.#root.scrollTop = this.#root.scrollHeight;
    this.#lastTop = this.#root.scrollTop;
    this.#atEnd = true;
    this.#showUnread(0);
  }

  /** Keeps the end in view; once a frame, since measuring after every message of many is slow. */
  #followEnd() {
    if (!this.#atEnd || this.#following) return;
    this.#following = true;
    requestAnimationFrame(() => {
      this.#following = false;
      if (this.#atEnd) this.scrollToEnd();
    });
  }

  /** Only scrolling up leaves the end: in a busy room it moves on before our own scroll is told. */
  #scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = this.#root;
    if (scrollHeight - scrollTop - clientHeight < 60) this.#atEnd = true;
    else if (scrollTop < this.#lastTop) this.#atEnd = false;
    this.#lastTop = scrollTop;
    if (this.#atEnd) this.#showUnread(0);
  }

  #showUnread(count) {
    this.#unread = count;
    this.#newer.dataset.shown = String(count > 0);
    this.#newer.tabIndex = count > 0 ? 0 : -1;
    if (count > 0)
      this.#newer.textContent = count === 1 ? '1 new message' : `${count} new messages`;
  }

  #firstPending() {
    return this.#list.querySelector('.pending');
  }

  #make(message) {
    const { id, name, text, user, at } = message;
    const author = tintPerson(
      element('span', { className: 'author', text: name, dir: 'auto' }),
      name,
    );
    const said = element('span', { className: 'text', text, dir: 'auto' });
    const time = element('time');
    if (at !== null) {
      time.dateTime = new Date(at).toISOString();
      time.textContent = timeFormat.format(at);
    }
    const bubble = element('div', { className: 'bubble' }, author, said, ' ', time);
    const made = element('li', { className: 'message', data: { id, user } }, avatar(name), bubble);
    made.classList.toggle('own', user === this.#me);
    const entry = { message, era: 0, made };
    this.#entries.set(message.key, entry);
    this.#entryOf.set(made, entry);
    return entry;
  }

  /** The element of a confirmed message, which is left as it is when it is shown already. */
  #insert(message, era) {
    const known = this.#entries.get(message.key);
    if (known && !known.made.classList.contains('pending')) return known.made;
    const entry = known ?? this.#make(message);
    Object.assign(entry, { message, era });
    entry.made.classList.remove('pending', 'failed');
    entry.made.querySelector('.retry')?.remove();
    this.#place(entry);
    return entry.made;
  }

  /** Puts a confirmed message where its position belongs; mostly that is the end. */
  #place(entry) {
    const wasBefore = entry.made.nextElementSibling;
    entry.made.remove();
    if (wasBefore) this.#dress(wasBefore);
    let next = this.#firstPending();
    for (
      let at = next ? next.previousElementSibling : this.#list.lastElementChild;
      at;
      at = at.previousElementSibling
    ) {
      const other = this.#entryOf.get(at);
      if (!other) continue; // a note stays with what is above it
      if (!isLater(other, entry)) break;
      next = at;
    }
    this.#list.insertBefore(entry.made, next);
    this.#dress(entry.made);
    if (entry.made.nextElementSibling) this.#dress(entry.made.nextElementSibling);
  }

  /** Groups a message with the one above it, or gives it the day's name. */
  #dress(made) {
    const entry = this.#entryOf.get(made);
    if (!entry) return;
    const { message } = entry;
    const above = this.#entryOf.get(made.previousElementSibling)?.message;
    made.classList.toggle('grouped', above !== undefined && belongTogether(above, message));
    const day = message.at === null ? null : dayOf(message.at);
    const dayAbove = this.#dayAbove(made) ?? 'Today';
    if (day !== null && day !== dayAbove) made.dataset.day = day;
    else delete made.dataset.day;
  }

  #dayAbove(made) {
    for (let at = made.previousElementSibling; at; at = at.previousElementSibling) {
      const above = this.#entryOf.get(at)?.message;
      if (above && above.at !== null) return dayOf(above.at);
    }
    return null;
  }
}

function belongTogether(a, b) {
  return (
    a.user === b.user &&
    a.name === b.name &&
    Math.abs(a.at - b.at) < GROUP_WITHIN_MS &&
    dayOf(a.at) === dayOf(b.at)
  );
}

function isLater(a, b) {
  return a.era === b.era ? a.message.offset > b.message.offset : a.era > b.era;
}

/** "Ada, Bo and 3 others joined" */
function listed(names, verb) {
  const all = [...names];
  if (all.length === 0) return '';
  const others = all.length - 3;
  const shown =
    others > 0 ? [...all.slice(0, 3), `${others} ${others === 1 ? 'other' : 'others'}`] : all;
  return `${shown.length === 1 ? shown[0] : `${shown.slice(0, -1).join(', ')} and ${shown.at(-1)}`} ${verb}`;
}

/* A conversation */

/** Being in one room: turns the room's events and its history into what the log and the list show. */
class Conversation {
  #room;
  #me;
  #log;
  #served; // () => {node, client}: the connection in use
  #listening = new AbortController();
  #entered = false;
  #connection = { node: '', client: '' }; // the one the room was last entered by
  #epoch = '';
  #era = 0; // grows when another log takes the place of the room's: its offsets may start anew
  #firstEra = 0; // the first era that the present log continues: its offsets are still good
  #oldest = { offset: 0, era: 0 }; // the oldest message shown, where older pages are read from
  #noOlder = false;
  #loading = false;

  people = new People();

  constructor(room, me, log, served) {
    this.#room = room;
    this.#me = me;
    this.#log = log;
    this.#served = served;
    this.#listen(room, 'subscribed', (detail) => this.#subscribed(detail));
    this.#listen(room, 'publication', (publication) => this.#published(publication));
    this.#listen(room, 'join', (info) => this.people.join(info));
    this.#listen(room, 'leave', (info) => this.people.leave(info));
    this.#listen(room, 'unsubscribed', ({ code, reason }) => this.#unsubscribed(code, reason));
    this.#listen(this.people, 'joined', (name) => this.#notePerson(name, true));
    this.#listen(this.people, 'left', (name) => this.#notePerson(name, false));
  }

  get name() {
    return this.#room.name;
  }

  enter() {
    this.#log.clear();
    this.#showOlder('idle');
    this.#room.subscribe();
    const refresh = setInterval(() => this.loadPeople(), PEOPLE_REFRESH_MS);
    this.#listening.signal.addEventListener('abort', () => clearInterval(refresh));
  }

  leave() {
    this.#listening.abort();
    this.#room.unsubscribe();
  }

  /** Shows a message at once and sends it; the room's own publication confirms it. */
  post(data) {
    const message = readMessage({ data, info: { user: this.#me } });
    this.#log.addPending(message);
    this.#send(data, message.key);
  }

  /** Shows what was not sent when the room was left, to be retried. */
  restore(messages) {
    for (const { id, text, at, key } of messages) {
      const data = { id, name: this.#me, text, at };
      this.#log.addPending(readMessage({ data, info: { user: this.#me } }));
      this.#log.fail(key, 'left the room', () => this.#send(data, key));
    }
  }

  async #send(data, key) {
    try {
      await this.#room.publish(data);
    } catch (error) {
      // It may have arrived all the same: then its publication confirms it, and no retry doubles it.
      if (!this.#left) this.#log.fail(key, error.message, () => this.#send(data, key));
    }
  }

  async loadPeople() {
    if (document.hidden && this.people.names.length > 0) return;
    const readAt = Date.now();
    try {
      const presence = await this.#room.presence();
      if (!this.#left) this.people.replace(presence, readAt);
    } catch {
      /* read again at the next connection */
    }
  }

  /** Enters again a room that the server has put us out of. */
  enterAgain() {
    this.#room.subscribe();
  }

  /** Reads the page of history before the oldest message shown (at first: the newest page). */
  async loadOlder() {
    if (this.#loading || this.#noOlder || this.#room.state !== 'subscribed') return;
    this.#loading = true;
    this.#showOlder('loading');
    try {
      const page = await this.#readBack(this.#oldest.offset);
      if (this.#left) return;
      this.#log.addOlder(page, this.#oldest.era);
      this.#oldest.offset = page.at(-1)?.offset ?? this.#oldest.offset;
      this.#noOlder = page.length < PAGE_SIZE;
      this.#entered = true;
      this.#loading = false;
      this.#showOlder(this.#noOlder ? 'start' : 'idle');
    } catch (error) {
      this.#loading = false;
      if (!this.#left) this.#olderFailed(error);
    }
  }

  get #left() {
    return this.#listening.signal.aborted;
  }

  async #readBack(before) {
    const since = before ? { offset: before, epoch: this.#epoch } : undefined;
    const { publications } = await this.#room.history({ limit: PAGE_SIZE, reverse: true, since });
    return publications.map((publication) => readMessage({ ...publication, epoch: this.#epoch }));
  }

  #olderFailed({ code }) {
    this.#noOlder = code === NO_HISTORY || code === POSITION_GONE;
    this.#entered ||= this.#noOlder;
    this.#showOlder(this.#noOlder ? 'gone' : 'failed');
  }

  #subscribed({ wasRecovering, recovered, epoch }) {
    const gap = this.#entered && !(wasRecovering && recovered);
    const before = this.#connection;
    this.#connection = this.#served();
    if (this.#entered) this.#announce(before, gap);
    if (gap) this.#catchUp(epoch);
    this.#epoch = epoch; // a takeover that recovered us carries the log on: offsets stay good
    if (!this.#entered) this.loadOlder();
    this.loadPeople();
  }

  /** Says what happened to the connection and, honestly, whether something may be missing. */
  #announce(before, gap) {
    const { node, client: now } = this.#connection;
    const what = [];
    if (node !== before.node) what.push(`moved to node ${node}`);
    else if (now !== before.client) what.push('reconnected');
    else if (!gap) return;
    what.push(gap ? 'some messages may be missing' : 'nothing missed');
    this.#log.note(gap ? 'gap' : 'moved', what.join(' – '));
  }

  /** After a gap: shows what the log still has of it, newest page first, down to what is known. */
  async #catchUp(epoch) {
    const sameLog = epoch === this.#epoch;
    const known = this.#log.offsets;
    if (!sameLog) this.#era += 1;
    const era = this.#era;
    this.#epoch = epoch;
    let before = 0;
    let overlap;
    try {
      for (let pages = 0; pages < CATCH_UP_PAGES && !overlap; pages += 1) {
        const page = await this.#readBack(before);
        if (this.#left || era !== this.#era) return;
        this.#log.addOlder(page, era);
        overlap = page.find(({ key }) => known.has(key));
        before = page.at(-1)?.offset;
        if (page.length < PAGE_SIZE) break;
      }
    } catch {
      /* the line above says that something may be missing */
    }
    // A log that has a known message at its known place continues the one shown. Of any other, the
    // offsets tell nothing about where older messages are.
    if (sameLog || (overlap && known.get(overlap.key) === overlap.offset)) return;
    this.#firstEra = era;
    this.#noOlder = true;
    this.#showOlder('gone');
  }

  #published(publication) {
    const message = readMessage(publication);
    const isNews = this.#log.add(message, this.#era);
    if (isNews && message.user !== this.#me) countUnseen();
    const oldest = this.#log.trim();
    if (!oldest) return;
    this.#oldest = { offset: oldest.message.offset, era: oldest.era };
    this.#noOlder = oldest.era < this.#firstEra;
    this.#showOlder(this.#noOlder ? 'gone' : 'idle');
  }

  #unsubscribed(code, reason) {
    if (code !== 0) this.#log.note('gap', `You are no longer in this room: ${reason}`);
  }

  #notePerson(name, joined) {
    const announced = name !== this.#me && this.people.names.length < PEOPLE_ANNOUNCED_BELOW;
    if (announced && this.#entered) this.#log.notePerson(name, joined);
  }

  #showOlder(state) {
    const texts = {
      idle: '\u00a0',
      loading: 'Loading older messages…',
      start: `This is the beginning of #${this.name}`,
      gone: 'Older messages are no longer kept',
      failed: 'Older messages could not be loaded',
    };
    $('older').dataset.state = state;
    $('older').textContent = texts[state];
    if (state === 'idle') lookAtTop();
    if (state === 'failed') setTimeout(lookAtTop, RETRY_OLDER_AFTER_MS);
  }

  #listen(target, type, handle) {
    target.addEventListener(type, ({ detail }) => handle(detail), {
      signal: this.#listening.signal,
    });
  }
}

/* The page: joining, rooms, people, nodes, connection, writing */

const cluster = new Cluster();
const unsent = new Map(); // room → messages not confirmed when it was left
let me = '';
let client = null;
let log = null;
let conversation = null;
let served = { node: '', client: '' }; // the connection in use: the node's name, our client id there
let unseen = 0;

function join(name, room) {
  me = name;
  memory.set('name', name);
  $('welcome').hidden = true;
  $('chat').hidden = false;
  log = new MessageLog(me);
  client = new Roomcast(cluster.endpoints, { getToken: (endpoint) => fetchToken(endpoint, me) });
  client.addEventListener('connecting', ({ detail }) => showConnecting(detail));
  client.addEventListener('connected', ({ detail }) => showConnected(detail));
  client.addEventListener('disconnected', ({ detail }) => showOffline(detail));
  client.connect();
  enterRoom(room);
  if (matchMedia('(pointer: fine)').matches) $('text').focus();
}

function enterRoom(name) {
  if (conversation) {
    unsent.set(conversation.name, log.unconfirmed);
    conversation.leave();
  }
  history.replaceState(null, '', `#${encodeURIComponent(name)}`);
  rememberRoom(name);
  conversation = new Conversation(client.room(name), me, log, () => served);
  conversation.people.addEventListener('change', showPeople);
  conversation.enter();
  conversation.restore(unsent.get(name) ?? []);
  $('room-title').textContent = name;
  showRooms();
  showPeople();
  showTitle();
}

/** Loads older messages when the top of the log comes into view. */
const topOfLog = new IntersectionObserver(
  ([{ isIntersecting }]) => {
    if (isIntersecting) conversation?.loadOlder();
  },
  { root: $('messages') },
);

/** Looks again: an observer tells of changes only, and a short page may leave the top in view. */
function lookAtTop() {
  topOfLog.unobserve($('older'));
  topOfLog.observe($('older'));
}

function showRooms() {
  const links = knownRooms().map((room) => {
    const link = element(
      'a',
      { href: `#${encodeURIComponent(room)}` },
      element('span', { text: room }),
    );
    if (room === conversation.name) link.setAttribute('aria-current', 'page');
    return element('li', {}, link);
  });
  $('rooms').replaceChildren(...links);
}

function showPeople() {
  const others = conversation.people.names
    .filter((name) => name !== me)
    .sort((a, b) => a.localeCompare(b));
  const names = conversation.people.has(me) ? [me, ...others] : others;
  const items = names.slice(0, PEOPLE_SHOWN).map((name) => {
    const person = element('span', { className: 'person', text: name, dir: 'auto' });
    const item = element('li', { data: { name } }, avatar(name), person);
    if (name === me) item.append(element('span', { className: 'aside', text: 'you' }));
    return item;
  });
  $('people').replaceChildren(...items);
  $('people-count').textContent = names.length;
  $('people-more').hidden = names.length <= PEOPLE_SHOWN;
  $('people-more').textContent = `and ${names.length - PEOPLE_SHOWN} more`;
  showSummary();
}

function showSummary() {
  const states = { connected: 'connected', connecting: 'connecting…', offline: 'offline' };
  const count = conversation?.people.names.length ?? 0;
  $('room-summary').textContent = [count && `${count} here`, states[$('node').dataset.state]]
    .filter(Boolean)
    .join(' · ');
}

function showNodes() {
  if (client) client.endpoints = cluster.endpoints;
  const items = cluster.nodes.map(({ name, url, phase, live }) => {
    const dot = tintNode(element('span', { className: 'dot', 'aria-hidden': 'true' }), name);
    const item = element(
      'li',
      { data: { name, live, phase } },
      dot,
      element('span', { className: 'node-name', text: `node ${name}` }),
    );
    const aside = nodeAside(name, phase, live);
    if (aside) item.append(element('span', { className: 'aside', text: aside }));
    if (live) item.append(nodeLink(name, url));
    return item;
  });
  $('nodes').replaceChildren(...items);
  const own = cluster.nameOf(location.origin);
  const live = cluster.nodes.filter((each) => each.live).length;
  const share = live === 1 ? 'the only one' : `one of ${live}`;
  if (live > 0) $('served-by').textContent = `This page comes from node ${own}, ${share}.`;
}

function nodeAside(name, phase, live) {
  if (!live) return 'gone';
  if (phase === 'draining') return 'is leaving';
  if (phase === 'joining') return 'is joining';
  return name === served.node ? 'serves you' : '';
}

function nodeLink(name, url) {
  const label = `Open this chat on node ${name}`;
  const attributes = {
    href: url,
    target: '_blank',
    rel: 'noopener',
    title: label,
    'aria-label': label,
  };
  const link = element('a', { text: 'Open ↗', ...attributes });
  // The room is read at the click, since it changes more often than the list.
  link.addEventListener('click', () => {
    link.href = `${url}/#${encodeURIComponent(conversation.name)}`;
  });
  return link;
}

function showState(state, banner) {
  $('node').dataset.state = state;
  // Going out of sight, the banner says the good news, for screen readers too.
  const wasShown = $('banner').dataset.shown === 'true';
  $('status').textContent = banner || (wasShown ? 'Connected again' : '');
  $('banner').dataset.shown = String(banner !== '');
  $('reconnect').hidden = state !== 'offline';
  showSummary();
}

function showConnecting({ code }) {
  showState('connecting', code === 0 ? '' : 'Reconnecting…');
}

function showConnected({ endpoint, client: id, node: named }) {
  // Behind a load balancer only the server's own word tells which node it is.
  const node = cluster.has(named) ? named : cluster.nameOf(endpoint);
  served = { node, client: id };
  $('node').textContent = node;
  tintNode($('node-chip'), node);
  showState('connected', '');
  showNodes();
  cluster.follow(httpOf(endpoint));
}

function showOffline({ reason }) {
  showState('offline', `Disconnected: ${reason}`);
}

function showTitle() {
  const room = `#${conversation.name} · Roomcast chat`;
  document.title = unseen > 0 ? `(${unseen}) ${room}` : room;
}

function countUnseen() {
  if (!document.hidden) return;
  unseen += 1;
  showTitle();
}

function send() {
  const text = $('text').value.trim();
  $('text').focus();
  if (text === '') return;
  $('text').value = '';
  fitText();
  conversation.post({ id: randomId(), name: me, text, at: Date.now() });
}

function fitText() {
  const { style } = $('text');
  style.height = '';
  // scrollHeight leaves out the two borders of 1 px.
  if ($('text').scrollHeight > $('text').clientHeight)
    style.height = `${$('text').scrollHeight + 2}px`;
}

function openSide(open) {
  $('chat').dataset.side = open ? 'open' : 'closed';
  $('side-shade').hidden = !open;
  $('side-open').setAttribute('aria-expanded', String(open));
  $('conversation').inert = open;
  $(open ? 'side-close' : 'side-open').focus();
}

function sideIsOpen() {
  return $('chat').dataset.side === 'open';
}

function showRoomChoices() {
  const chosen = cleanRoom($('room').value);
  const choices = knownRooms().map((room) => {
    const button = element('button', {
      type: 'button',
      text: room,
      'aria-pressed': String(room === chosen),
    });
    button.addEventListener('click', () => {
      $('room').value = room;
      showRoomChoices();
      $('join').focus();
    });
    return element('li', {}, button);
  });
  $('room-choices').replaceChildren(...choices);
}

function onJoinSubmitted(event) {
  event.preventDefault();
  const name = cleanName($('name').value);
  if (name === '') {
    $('name').value = '';
    $('name').reportValidity();
    return;
  }
  join(name, cleanRoom($('room').value) || DEFAULT_ROOM);
}

function onAddressChanged() {
  const room = roomInAddress();
  if (!conversation) {
    $('room').value = room;
    showRoomChoices();
    return;
  }
  if (room !== conversation.name) enterRoom(room);
  if (sideIsOpen()) openSide(false);
}

/** The current room's link does not change the address, but means something all the same. */
function onRoomClicked({ target }) {
  if (!target.closest('a[aria-current]')) return;
  conversation.enterAgain();
  if (sideIsOpen()) openSide(false);
}

function onTextKey(event) {
  // While an input method composes, Enter chooses a word.
  if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  send();
}

$('name').value = cleanName(memory.get('name') ?? '') || suggestedName();
$('room').value = roomInAddress();
$('room').addEventListener('input', showRoomChoices);
$('another-name').addEventListener('click', () => {
  $('name').value = suggestedName();
});
$('join-form').addEventListener('submit', onJoinSubmitted);
$('new-room-form').addEventListener('submit', (event) => {
  event.preventDefault();
  const room = cleanRoom($('new-room').value);
  $('new-room').value = '';
  if (room) location.hash = encodeURIComponent(room);
});
$('composer').addEventListener('submit', (event) => {
  event.preventDefault();
  send();
});
$('text').addEventListener('input', fitText);
$('text').addEventListener('keydown', onTextKey);
$('reconnect').addEventListener('click', () => client.connect());
$('side-open').addEventListener('click', () => openSide(true));
$('side-close').addEventListener('click', () => openSide(false));
$('side-shade').addEventListener('click', () => openSide(false));
$('rooms').addEventListener('click', onRoomClicked);
matchMedia('(max-width: 820px)').addEventListener('change', () => sideIsOpen() && openSide(false));
addEventListener('keydown', ({ key }) => key === 'Escape' && sideIsOpen() && openSide(false));
addEventListener('hashchange', onAddressChanged);
document.addEventListener('visibilitychange', () => {
  if (document.hidden) return;
  unseen = 0;
  if (conversation) showTitle();
});
cluster.addEventListener('change', showNodes);
showRoomChoices();
cluster.follow(location.origin);
