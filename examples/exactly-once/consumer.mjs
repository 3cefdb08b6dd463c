// A consumer whose effects take place once: it books the payments of a room, "jobs:pay", on accounts in SQLite.
//
//   npm install
//   node consumer.mjs ws://127.0.0.1:8000/connection/websocket bank.db
//
// Any number of them may run at a time, in any language, on one database. Another room may follow; it needs another database.
import { setTimeout as sleep } from 'node:timers/promises';
import Database from 'better-sqlite3';
import { Centrifuge } from 'centrifuge';
import WebSocket from 'ws';

const [url, file, channel = 'jobs:pay'] = process.argv.slice(2);
if (!file) {
  console.error('usage: node consumer.mjs URL DATABASE [ROOM]');
  process.exit(2);
}

const db = new Database(file, { timeout: 10_000 });
function create() {
  db.pragma('journal_mode = wal');
  db.pragma('synchronous = full'); // what is acknowledged must outlive a power cut
  db.exec(`
    create table if not exists done (
      message text not null primary key,
      repeats integer not null default 0,
      at text not null default current_timestamp
    ) strict;
    create table if not exists account (
      name text not null primary key,
      balance integer not null,
      payments integer not null
    ) strict;
  `);
}
for (const deadline = Date.now() + 10_000; ; await sleep(50)) {
  try {
    create();
    break;
  } catch (error) {
    // SQLite does not wait while others open the same new file, each to give it a log ("wal"), so this does.
    if (!error.code?.startsWith('SQLITE_BUSY') || Date.now() > deadline) throw error;
  }
}
const remember = db.prepare(`
  insert into done (message) values (?)
  on conflict (message) do update set repeats = repeats + 1
  returning repeats`);
const book = db.prepare(`
  insert into account values (?, ?, 1)
  on conflict (name) do update set balance = balance + excluded.balance, payments = payments + 1`);

// One transaction: the effect, and that it has taken place. A message that came before has no effect.
const take = db.transaction((message, { account, amount }) => {
  if (remember.get(message).repeats === 0) book.run(account, amount);
}).immediate;

const client = new Centrifuge(url, { websocket: WebSocket, maxReconnectDelay: 2_000 });
const jobs = client.newSubscription(channel, { data: { group: 'bank', prefetch: 16 }, maxResubscribeDelay: 2_000 });
const answers = new Set();
let leaving = false;

// Whether this is heard or not: a message that is not settled comes again, and then has no effect.
function settle(method, tags, more = {}) {
  const deliveries = [tags['roomcast-delivery']];
  const answer = client.rpc(method, { channel, deliveries, ...more }).catch(() => {}).finally(() => answers.delete(answer));
  answers.add(answer);
}

jobs.on('publication', ({ data, tags }) => {
  if (leaving) return; // it goes to another consumer
  try {
    take(tags['roomcast-message'], data);
  } catch (error) {
    // The database is busy, or the message can't be booked: later, and in the end it is a dead letter.
    console.error(`${tags['roomcast-message']}:`, error.message);
    settle('queue.nack', tags, { delay: '1s' });
    return;
  }
  settle('queue.ack', tags);
});

// The SDK connects again by itself. What is final is for whoever has started this process.
function end({ code, reason }) {
  if (leaving) return;
  console.error(`${reason} (${code})`);
  process.exit(1);
}
client.on('disconnected', end);
jobs.on('unsubscribed', end);

for (const signal of ['SIGTERM', 'SIGINT']) {
  process.on(signal, async () => {
    leaving = true;
    await Promise.all(answers);
    client.disconnect();
    db.close();
    process.exit(0);
  });
}

jobs.subscribe();
client.connect();
