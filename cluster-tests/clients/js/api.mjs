// Methods of the server API by npm `cent.js`: URLs of nodes, separated by commas, and the key are the arguments.
import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import { CentClient } from 'cent.js';

const [urls, apiKey] = process.argv.slice(2);
const clients = urls.split(',').map((url) => new CentClient({ url: `${url}/api`, apiKey }));
let turn = 0;
const client = () => clients[turn++ % clients.length];

const first = await client().publish({ channel: 'page', data: { n: 1 }, tags: { a: 'b' } });
assert.ok(first.offset >= 1 && first.epoch);
await client().broadcast({ channels: ['page', 'other'], data: { n: 2 } });
const history = await client().getHistory({ channel: 'page', limit: 10 });
assert.deepEqual(history.publications.slice(-2).map((p) => p.data.n), [1, 2]);
assert.deepEqual(history.publications.at(-2).tags, { a: 'b' });
assert.deepEqual((await client().getPresence({ channel: 'page' })).presence, {});
assert.equal((await client().getPresenceStats({ channel: 'page' })).num_clients, 0);
assert.ok((await client().getChannels({})).channels);
let { nodes } = await client().getInfo({});
// A node that is slow for once is missing.
for (let tries = 1; tries < 10 && nodes.length !== clients.length; tries++) {
  await sleep(500);
  ({ nodes } = await client().getInfo({}));
}
assert.equal(nodes.length, clients.length);
for (const method of ['subscribe', 'unsubscribe']) await client()[method]({ user: 'nobody', channel: 'page' });
await client().disconnect({ user: 'nobody' });
await client().refresh({ user: 'nobody' });
const replies = await client().pipeline([
  { method: 'publish', params: { channel: 'page', data: null } },
  { method: 'history', params: { channel: 'page', limit: 1, reverse: true } },
  { method: 'presence_stats', params: { channel: 'page' } },
]);
assert.equal(replies.length, 3);
assert.equal(replies[1].publications[0].data, null);
assert.equal(replies[1].offset, replies[0].offset);
await client().removeHistory({ channel: 'page' });
assert.deepEqual((await client().getHistory({ channel: 'page', limit: 10 })).publications, []);
await assert.rejects(client().getHistory({ channel: 'plain:x', limit: 1 }));
console.log('all of the API by cent.js');
